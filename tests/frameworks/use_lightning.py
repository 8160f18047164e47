"""A script: what people do with Lightning and wandb. Usage: use_lightning.py USE [STRATEGY]."""

import multiprocessing
import os
import sys

import carried
import lightning.pytorch as pl
import torch
import wandb
import yaml
from carriers_training import batches
from lightning.pytorch.loggers import CSVLogger, WandbLogger

import wandb_ddp_patch  # noqa: F401

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}
BATCHES = 4


class Model(pl.LightningModule):
    def __init__(self, config):
        super().__init__()
        self.save_hyperparameters()
        self.rate = config["lr"]
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, inputs):
        return self.layer(inputs)

    def training_step(self, batch, _):
        loss = torch.nn.functional.mse_loss(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate)


class WatchesInRank0(pl.Callback):
    """Where a worker's own model is to be watched: what arrives by a pickle is not."""

    def on_fit_start(self, trainer, module):
        if trainer.global_rank == 0:
            trainer.logger.watch(module, log="all", log_freq=1)


def fit(strategy, watch=None, callbacks=()):
    """The run and its config exist in the parent; Lightning starts the workers."""
    logger = WandbLogger(project="p", offline=True, config=carried.CONFIG)
    config = logger.experiment.config
    model = Model(config)
    if watch:
        logger.watch(model, log=watch, log_freq=1)
    trainer = pl.Trainer(
        devices=2,
        strategy=strategy,
        max_epochs=1,
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir="out",
        **QUIET,
    )
    trainer.fit(model, batches(2 * 2 * BATCHES))
    if watch:  # the parent's is still watched
        model(torch.ones(1, 2)).sum().backward()
    logger.experiment.log({"owner": 1})
    wandb.finish()


def watch(strategy):
    fit(strategy, watch="all")


def watch_in_rank_0(strategy):
    fit(strategy, callbacks=[WatchesInRank0()])


def fit_with_the_run(strategy):
    """Each rank logs to the parent's run, which it has from the module."""
    run = wandb.init(project="p", config=carried.CONFIG)
    trainer = pl.Trainer(
        devices=2,
        strategy=strategy,
        max_epochs=1,
        logger=False,
        callbacks=[LogsOfEachRank(run)],
        default_root_dir="out",
        **QUIET,
    )
    trainer.fit(Model(run.config), batches(2 * 2 * BATCHES))
    run.log({"owner": 1})
    run.finish()


class LogsOfEachRank(pl.Callback):
    def __init__(self, run):
        self.run = run

    def on_train_batch_end(self, trainer, *_):
        self.run.log({f"rank {trainer.global_rank}": 1})


def fit_twice(strategy):
    """Each rank says where it comes from; see test_spawn_variable.py."""
    run = wandb.init(project="p", config=carried.CONFIG)
    for _ in range(2):
        trainer = pl.Trainer(
            devices=2,
            strategy=strategy,
            max_epochs=1,
            logger=False,
            callbacks=[LogsOfEachRank(run), SaysWhence()],
            default_root_dir="out",
            **QUIET,
        )
        trainer.fit(Model(run.config), batches(2 * 2 * BATCHES))
    run.log({"owner": 1})
    run.finish()


class SaysWhence(pl.Callback):
    def on_fit_start(self, trainer, _):
        forked = os.getppid() != multiprocessing.parent_process().pid
        print(f"rank {trainer.global_rank} is {'forked' if forked else 'spawned'}\n", end="")


def checkpoint():
    """The config is among a model's hyperparameters, and its checkpoint is loaded."""
    run = wandb.init(project="p", config=carried.CONFIG)
    trainer = pl.Trainer(devices=1, max_epochs=1, logger=False, default_root_dir="out", **QUIET)
    trainer.fit(Model(run.config), batches())
    trainer.save_checkpoint("model.ckpt")
    loaded = Model.load_from_checkpoint("model.ckpt")
    assert loaded.rate == 0.1 and loaded.hparams.config["lr"] == 0.1
    run.log({"owner": 1})
    run.finish()


def hparams_yaml():
    """CSVLogger writes the hyperparameters as YAML, which is read back."""
    run = wandb.init(project="p", config=carried.CONFIG)
    logger = CSVLogger("logs")
    trainer = pl.Trainer(devices=1, max_epochs=1, logger=logger, **QUIET)
    trainer.fit(Model(run.config), batches())
    with open(f"{logger.log_dir}/hparams.yaml") as file:
        assert yaml.safe_load(file)["config"] == carried.CONFIG
    run.log({"owner": 1})
    run.finish()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
