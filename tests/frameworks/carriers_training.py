"""The carriers that trainings have: each takes a parcel to a worker of a framework's."""

import functools
import importlib
import os
import socket

import carried
import numpy
import torch
import torch.utils.data


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return str(listener.getsockname()[1])


def batches(rows=4):
    data = torch.utils.data.TensorDataset(torch.ones(rows, 2), torch.ones(rows, 1))
    return torch.utils.data.DataLoader(data, batch_size=2)


# --- Lightning --------------------------------------------------------------


def lightning(strategy, parcel):
    import lightning.pytorch as pl
    from lightning_parts import Module

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(parcel), batches())


# --- Accelerate -------------------------------------------------------------


def accelerate_debug_launcher(parcel):
    from accelerate import debug_launcher

    debug_launcher(carried.use, args=(parcel,), num_processes=2)


def accelerate_notebook_launcher(parcel):
    os.environ["ACCELERATE_USE_CPU"] = "true"
    from accelerate import notebook_launcher

    notebook_launcher(carried.use, args=(parcel,), num_processes=2, use_port=free_port())


# --- transformers -----------------------------------------------------------


class Texts(torch.utils.data.Dataset):
    def __init__(self, parcel):
        self.parcel = parcel

    def __len__(self):
        return 2

    def __getitem__(self, index):
        carried.use(self.parcel)
        return {"input_ids": [1, 2], "labels": 0}


def tiny_bert():
    import transformers

    config = transformers.BertConfig(
        vocab_size=8,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        max_position_embeddings=8,
    )
    return transformers.BertForSequenceClassification(config)


def transformers_data_workers(parcel):
    import transformers

    arguments = transformers.TrainingArguments(
        "out",
        report_to="none",
        max_steps=1,
        use_cpu=True,
        dataloader_num_workers=1,
        disable_tqdm=True,
        save_strategy="no",
    )
    transformers.Trainer(tiny_bert(), arguments, train_dataset=Texts(parcel)).train()


# --- ignite -----------------------------------------------------------------


def in_ignite(rank, parcel):
    carried.use(parcel)


def ignite_parallel(method, parcel):
    import ignite.distributed as idist

    with idist.Parallel(
        backend="gloo", nproc_per_node=2, start_method=method, master_port=int(free_port())
    ) as parallel:
        parallel.run(in_ignite, parcel)


# --- Stable-Baselines3 ------------------------------------------------------


def gym_env(parcel):
    import gymnasium

    carried.use(parcel)
    return gymnasium.make("CartPole-v1")


def stable_baselines(method, parcel):
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import SubprocVecEnv

    envs = SubprocVecEnv([functools.partial(gym_env, parcel)] * 2, start_method=method)
    PPO("MlpPolicy", envs, n_steps=8, batch_size=8, device="cpu").learn(16)
    envs.close()


# --- scikit-learn, skorch ---------------------------------------------------


def data():
    return numpy.ones((8, 2), "float32"), numpy.array([0, 1] * 4, "int64")


def grid_search(parcel):
    from sklearn.model_selection import GridSearchCV
    from sklearn_parts import Estimator

    search = GridSearchCV(Estimator(parcel), {"c": [1, 2]}, n_jobs=2, cv=2, refit=False)
    search.fit(*data())


def skorch_grid_search(parcel):
    from sklearn.model_selection import GridSearchCV
    from sklearn_parts import UseAtStart
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(
        torch.nn.Linear,
        module__in_features=2,
        module__out_features=2,
        criterion=torch.nn.CrossEntropyLoss,
        max_epochs=1,
        train_split=None,
        verbose=0,
        callbacks=[("use", UseAtStart(parcel))],
    )
    search = GridSearchCV(net, {"lr": [0.1, 0.2]}, n_jobs=2, cv=2, refit=False, error_score="raise")
    search.fit(*data())


CARRIERS = {
    "Lightning, ddp_spawn": functools.partial(lightning, "ddp_spawn"),
    "Lightning, ddp_fork": functools.partial(lightning, "ddp_fork"),
    "Lightning, ddp_notebook": functools.partial(lightning, "ddp_notebook"),
    "Accelerate, debug_launcher": accelerate_debug_launcher,
    "Accelerate, notebook_launcher": accelerate_notebook_launcher,
    "transformers, Trainer's data workers": transformers_data_workers,
    "ignite, Parallel, spawn": functools.partial(ignite_parallel, "spawn"),
    "ignite, Parallel, fork": functools.partial(ignite_parallel, "fork"),
    "Stable-Baselines3, SubprocVecEnv, forkserver": functools.partial(
        stable_baselines, "forkserver"
    ),
    "Stable-Baselines3, SubprocVecEnv, spawn": functools.partial(stable_baselines, "spawn"),
    "scikit-learn, GridSearchCV": grid_search,
    "skorch, GridSearchCV": skorch_grid_search,
}

# What each imports, once, before the things are carried; and the packages that it is of.
_NEEDS = {
    "Lightning": (["lightning.pytorch", "lightning_parts"], ["lightning"]),
    "Accelerate": (["accelerate"], ["accelerate"]),
    "transformers": (["transformers", "accelerate"], ["transformers", "accelerate"]),
    "ignite": (["ignite.distributed"], ["pytorch-ignite"]),
    "Stable-Baselines3": (["stable_baselines3", "gymnasium"], ["stable-baselines3"]),
    "scikit-learn": (["sklearn.model_selection", "sklearn_parts"], ["scikit-learn", "joblib"]),
    "skorch": (["skorch", "sklearn.model_selection"], ["skorch", "scikit-learn", "joblib"]),
}


def prepare(name):
    """Give a carrier, with what it needs imported."""
    for module in _NEEDS[name.partition(",")[0]][0]:
        importlib.import_module(module)
    return CARRIERS[name]


def packages(name):
    """Name the packages that a carrier is of, beside Python and torch."""
    return _NEEDS[name.partition(",")[0]][1]
