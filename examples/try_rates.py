"""Train with three learning rates, one after the other, with spawn().

In a clone, in a fresh environment:

    pip install ".[demo]" && python examples/try_rates.py

The workers are given neither the run nor its config: wandb.run, wandb.config and
wandb.log are live in them. They are forked from a process that has imported torch,
wandb and this script once; warm_up() starts it while wandb.init() runs.
"""

import os
import time
from types import SimpleNamespace

import torch
import wandb
from show_rows import show_rows
from train_ddp import free_port, train

import wandb_ddp_patch

RATES = [0.003, 0.01, 0.03]


def train_at(rank, rate, world_size, called):
    if rank == 0:
        print(f"Rate {rate}: worker runs {time.time() - called:.2f} s after spawn() was called")
    config = SimpleNamespace(**{**wandb.config, "lr": rate})
    train(rank, SimpleNamespace(config=config, run=wandb.run, world_size=world_size))


def main():
    wandb_ddp_patch.warm_up()
    mode = os.environ.get("WANDB_MODE", "offline")
    defaults = {"epochs": 5, "batch_size": 32, "hidden": 64, "seed": 0}
    world_size = torch.cuda.device_count() or 2
    os.environ["MASTER_ADDR"] = "localhost"
    with wandb.init(project="wandb-ddp-patch-demo", config=defaults, mode=mode) as run:
        best = {}
        for rate in RATES:
            os.environ["MASTER_PORT"] = str(free_port())  # workers get the environment as it is now
            wandb_ddp_patch.spawn(train_at, (rate, world_size, time.time()), nprocs=world_size)
            best[rate] = run.summary["accuracy"]
            print(f"Rate {rate}: accuracy {best[rate]:.1%}")
        run.config["best_rate"] = max(best, key=best.get)
    show_rows(run)


if __name__ == "__main__":
    main()
