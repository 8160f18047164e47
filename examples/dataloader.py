"""A DataLoader whose workers read the run's config, and log what they find.

In a clone, in a fresh environment:

    pip install . torch && python examples/dataloader.py

The dataset holds wandb.config and the run, as datasets built from a config often do. With spawn
and forkserver, the dataset is pickled for each worker; without wandb_ddp_patch, this fails.
"""

import os

import torch
import wandb
from show_rows import show_rows
from torch.utils.data import DataLoader, Dataset, get_worker_info

import wandb_ddp_patch

wandb_ddp_patch.apply()  # these two lines are added


class Circles(Dataset):
    """Points, and whether they are in a circle; some measurements are broken."""

    def __init__(self, config, run):
        self.config = config
        self.run = run

    def __len__(self):
        return self.config.points

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        point = torch.rand(2, generator=generator) * 2 - 1
        inside = (point.norm() < 0.8).float()
        if index % self.config.broken_every == 0:
            # Every worker logs to the same run.
            self.run.log({"broken": index, "worker": get_worker_info().id})
            point = torch.zeros(2)
        return point + self.config.noise * torch.randn(2, generator=generator), inside


def main():
    settings = {"points": 512, "noise": 0.02, "broken_every": 100, "lr": 0.02, "epochs": 5}
    mode = os.environ.get("WANDB_MODE", "offline")
    with wandb.init(project="wandb-ddp-patch-demo", config=settings, mode=mode) as run:
        loader = DataLoader(
            Circles(wandb.config, run),
            batch_size=32,
            num_workers=2,
            persistent_workers=True,
            multiprocessing_context="spawn",
        )
        model = torch.nn.Sequential(
            torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1), torch.nn.Flatten(0)
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=wandb.config.lr)
        for epoch in range(wandb.config.epochs):
            total = 0.0
            for points, inside in loader:
                loss = torch.nn.functional.binary_cross_entropy_with_logits(model(points), inside)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            run.log({"epoch": epoch, "loss": total / len(loader)})
        print(f"Loss of the last epoch: {total / len(loader):.3f}")
    show_rows(run, by="worker")


if __name__ == "__main__":
    main()
