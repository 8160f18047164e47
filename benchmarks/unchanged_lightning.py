"""An arm of unchanged.py: for each line that it reads, fit() with Lightning's ddp_spawn.

Timed from the call to the first batch of rank 0, of two.
"""

import sys
import time

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import wandb_ddp_patch

wandb_ddp_patch.apply()

QUIET = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")


class Model(pl.LightningModule):
    def __init__(self, seen):
        super().__init__()
        self.seen, self.layer = seen, torch.nn.Linear(2, 1)

    def training_step(self, batch, number):
        if self.global_rank == 0 and number == 0:
            self.seen[0] = time.time()
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


if __name__ == "__main__":
    for _ in sys.stdin:
        seen = torch.zeros(1, dtype=torch.float64).share_memory_()
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp_spawn",
            max_epochs=1,
            **dict.fromkeys(QUIET, False),
        )
        data = DataLoader(TensorDataset(torch.rand(16, 2), torch.rand(16, 1)), 4)
        begun = time.time()
        trainer.fit(Model(seen), data)
        print("seconds", seen.item() - begun, flush=True)
