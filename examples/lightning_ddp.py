"""Lightning with ddp_spawn: WandbLogger, hyperparameters from wandb.config, rows of each rank.

In a clone, in a fresh environment:

    pip install . lightning && python examples/lightning_ddp.py
"""

import os

import lightning.pytorch as pl
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from show_rows import show_rows
from torch.utils.data import DataLoader, TensorDataset

import wandb_ddp_patch

wandb_ddp_patch.apply()  # these two lines are added


class Classifier(pl.LightningModule):
    def __init__(self, config):
        super().__init__()
        self.save_hyperparameters()  # into each checkpoint, which loads without a run
        self.config = config
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, config.hidden), torch.nn.ReLU(), torch.nn.Linear(config.hidden, 1)
        )

    def training_step(self, batch, _):
        points, inside = batch
        loss = torch.nn.functional.binary_cross_entropy_with_logits(self.layers(points), inside)
        self.log("loss", loss)  # WandbLogger logs it, in rank 0
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.config.lr)


class RowsOfEachRank(pl.Callback):
    """Logs from every rank to one run, which the callback holds."""

    def __init__(self, run):
        self.run = run

    def on_train_epoch_end(self, trainer, module):
        norm = sum(p.norm() for p in module.parameters()).item()
        self.run.log({f"norm in rank {trainer.global_rank}": norm})


def points():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(512, 2, generator=generator) * 2 - 1
    return TensorDataset(points, (points.norm(dim=1, keepdim=True) < 0.8).float())


def main():
    config = {"lr": 0.01, "hidden": 32, "epochs": 3}
    mode = os.environ.get("WANDB_MODE", "offline")
    run = wandb.init(project="wandb-ddp-patch-demo", config=config, mode=mode)
    logger = WandbLogger(experiment=run)
    model = Classifier(run.config)
    logger.watch(model, log="all")
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        max_epochs=run.config.epochs,
        logger=logger,
        callbacks=[RowsOfEachRank(run)],
        log_every_n_steps=4,
        enable_progress_bar=False,
        default_root_dir=run.dir,
    )
    trainer.fit(model, DataLoader(points(), batch_size=32))
    print(f"Loss of the last step: {trainer.callback_metrics['loss']:.3f}")
    trainer.save_checkpoint(os.path.join(run.dir, "model.ckpt"))
    run.finish()
    show_rows(run)


if __name__ == "__main__":
    main()
