"""MPI ranks that log to one run, on one machine or on several.

In a clone, in a fresh environment:

    pip install . mpi4py mpich && mpiexec -n 2 python examples/mpi.py

Rank 0 starts the run, and comm.bcast() pickles it for the others. share() makes the run
reachable from other machines; if all ranks are on one machine, leave that call out. If a rank
may fail, start the script with "python -m mpi4py examples/mpi.py": otherwise the other ranks
wait for that rank forever.
"""

import os
import random

import wandb
from mpi4py import MPI
from show_rows import show_rows

import wandb_ddp_patch


def main():
    comm = MPI.COMM_WORLD
    rank = comm.Get_rank()
    run = None
    if rank == 0:
        settings = {"points": 10_000, "steps": 20}
        mode = os.environ.get("WANDB_MODE", "offline")
        run = wandb.init(project="wandb-ddp-patch-demo", config=settings, mode=mode)
        wandb_ddp_patch.share(run)
    run = comm.bcast(run, root=0)

    numbers = random.Random(rank)  # each rank has numbers of its own
    points = run.config.points
    for _ in range(run.config.steps):
        inside = sum(numbers.random() ** 2 + numbers.random() ** 2 < 1 for _ in range(points))
        run.log({f"pi of rank {rank}": 4 * inside / points})

    if rank != 0:
        run.finish()  # ends this rank's use of the run: all its rows have arrived
    comm.Barrier()
    if rank == 0:
        run.finish()  # ends the run
        show_rows(run)


if __name__ == "__main__":
    main()
