"""A multiprocessing.Pool whose workers read the parent's config and log to its run.

In a clone, in a fresh environment:

    pip install . && python examples/pool.py

Nothing is passed to the workers but their tasks: wandb.config and wandb.log() are the parent
run's in each process that multiprocessing starts. When a task's result arrives, its rows have
been sent.
"""

import multiprocessing
import os
import random

import wandb
from show_rows import show_rows

import wandb_ddp_patch

wandb_ddp_patch.apply()  # these two lines are added


def estimate(seed):
    """Estimate pi from random points, in a worker."""
    numbers = random.Random(seed)
    points = range(wandb.config.points)
    inside = sum(numbers.random() ** 2 + numbers.random() ** 2 < 1 for _ in points)
    pi = 4 * inside / len(points)
    wandb.log({"pi": pi, "seed": seed, "process": os.getpid()})
    return pi


def main():
    settings = {"points": 100_000, "tasks": 12}
    mode = os.environ.get("WANDB_MODE", "offline")
    with wandb.init(project="wandb-ddp-patch-demo", config=settings, mode=mode) as run:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            estimates = pool.map(estimate, range(run.config.tasks), chunksize=1)
        run.summary["mean"] = sum(estimates) / len(estimates)
        print(f"Mean of {len(estimates)} estimates: {run.summary['mean']:.4f}")
    show_rows(run, by="process")


if __name__ == "__main__":
    main()
