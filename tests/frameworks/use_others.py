"""A script: what people do with other frameworks and wandb. Usage: use_others.py USE."""

import functools
import sys

import carried
import torch
import wandb
from carriers_training import data, free_port

import wandb_ddp_patch  # noqa: F401

ROWS = 3


def logging_env(run):
    import gymnasium

    class Logging(gymnasium.Wrapper):
        def step(self, action):
            run.log({"step of an environment": 1})
            return super().step(action)

    return Logging(gymnasium.make("CartPole-v1"))


def stable_baselines(method):
    """Environments in processes log to the run; W&B's callback watches the policy."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import SubprocVecEnv
    from wandb.integration.sb3 import WandbCallback

    run = wandb.init(project="p", config=carried.CONFIG)
    envs = SubprocVecEnv([functools.partial(logging_env, run)] * 2, start_method=method)
    model = PPO("MlpPolicy", envs, n_steps=8, batch_size=8, device="cpu")
    model.learn(16, callback=WandbCallback(gradient_save_freq=1))
    envs.close()
    torch.save(model.policy, "policy.pt")  # whole, while it is watched
    torch.load("policy.pt", weights_only=False)
    run.log({"owner": 1})
    run.finish()


def skorch():
    """skorch's WandbLogger, in a grid search whose workers fit at once."""
    from sklearn.model_selection import GridSearchCV
    from skorch import NeuralNetClassifier
    from skorch.callbacks import WandbLogger

    run = wandb.init(project="p", config=carried.CONFIG)
    net = NeuralNetClassifier(
        torch.nn.Linear,
        module__in_features=2,
        module__out_features=2,
        criterion=torch.nn.CrossEntropyLoss,
        max_epochs=ROWS,
        train_split=None,
        verbose=0,
        callbacks=[("wandb", WandbLogger(run, save_model=False))],
    )
    search = GridSearchCV(net, {"lr": [0.1, 0.2]}, n_jobs=2, cv=2, refit=False, error_score="raise")
    search.fit(*data())
    run.log({"owner": 1})
    run.finish()


def in_ignite(rank, logger, run):
    from ignite.engine import Engine, Events
    from ignite.handlers import WandBLogger

    if logger is None:
        run.log({"connected": 1})  # from now on it is wandb.run, to which the logger logs
        logger = WandBLogger(init=False)
    engine = Engine(lambda engine, batch: {"loss": 0.5})
    logger.attach_output_handler(
        engine,
        event_name=Events.ITERATION_COMPLETED,
        tag=f"rank {rank}",
        output_transform=lambda output: output,
    )
    engine.run([1] * ROWS)


def ignite(method):
    """Both ranks log by ignite's WandBLogger: the parent's, or one of their own, to its run.

    A WandBLogger can't be pickled, as its own __getattr__ asks for ever on a blank one.
    """
    import ignite.distributed as idist
    from ignite.handlers import WandBLogger

    run = wandb.init(project="p", config=carried.CONFIG)
    logger = WandBLogger(init=False) if method == "fork" else None
    port = int(free_port())
    with idist.Parallel(
        backend="gloo", nproc_per_node=2, start_method=method, master_port=port
    ) as parallel:
        parallel.run(in_ignite, logger, run)
    run.log({"owner": 1})
    run.finish()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
