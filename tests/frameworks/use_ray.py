"""A script: what people do with Ray and wandb. Usage: use_ray.py USE."""

import os
import sys
from pathlib import Path

import carried
import ray
import wandb
from ray import train, tune
from ray.air.integrations.wandb import setup_wandb
from ray.train.torch import TorchTrainer

import wandb_ddp_patch  # noqa: F401

ROWS = 3
HERE = Path.cwd()


def own_and_passed(config):
    """A trial with a run of its own, that also logs to the one that it was passed."""
    os.chdir(HERE)
    own = setup_wandb(config={"x": config["x"]}, project="p", mode="offline", dir=str(HERE))
    for i in range(ROWS):
        own.log({"own": i})
        config["run"].log({"passed": i})
        wandb.log({"own by wandb.log": i})
    own.finish()
    tune.report({"score": config["run"].config["lr"]})


def tune_setup_wandb():
    run = wandb.init(project="p", config=carried.CONFIG)
    trainable = tune.with_parameters(
        lambda config, run: own_and_passed({**config, "run": run}), run=run
    )
    run_config = tune.RunConfig(storage_path=str(HERE / "ray"), verbose=0)
    tuner = tune.Tuner(
        trainable, param_space={"x": tune.grid_search([1, 2])}, run_config=run_config
    )
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]
    run.log({"owner": 1})
    run.finish()


def train_loop(config):
    context = train.get_context()
    rank = context.get_world_rank()
    os.chdir(HERE)
    for i in range(ROWS):
        config["run"].log({f"rank {rank}": i})
    # As many training functions do; it must not end the run of the others.
    wandb.finish()


def train_with_the_run():
    run = wandb.init(project="p", config=carried.CONFIG)
    TorchTrainer(
        train_loop,
        train_loop_config={"run": run},
        scaling_config=train.ScalingConfig(num_workers=2, use_gpu=False),
        run_config=train.RunConfig(storage_path=str(HERE / "ray")),
    ).fit()
    run.log({"owner": 1})
    run.finish()


@ray.remote
class Learner:
    def __init__(self, run):
        self.run = run

    def learn(self, n):
        self.run.log({f"actor {n}": 1})
        return self.run.config["lr"]


def actors():
    """Actors that hold the run log task after task, and are killed by Ray at its end."""
    run = wandb.init(project="p", config=carried.CONFIG)
    learners = [Learner.remote(run) for _ in range(2)]
    for _ in range(ROWS):
        rates = ray.get([learner.learn.remote(n) for n, learner in enumerate(learners)])
        assert rates == [0.1, 0.1]
    for learner in learners:
        ray.kill(learner)
    run.log({"owner": 1})
    run.finish()


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
    try:
        globals()[sys.argv[1]](*sys.argv[2:])
    finally:
        ray.shutdown()
