"""A script: ranks of MPI on two machines, with rank 0's run.

Each writes to a file what it has seen.
"""

import json
import os

import wandb
from mpi4py import MPI

import wandb_ddp_patch

ROWS = 50


def main():
    world = MPI.COMM_WORLD
    rank = world.Get_rank()
    own = wandb.init(mode="offline", project="p", config={"lr": 0.1}) if rank == 0 else None
    if own:
        wandb_ddp_patch.share(own)
    run, summary = world.bcast((own, own.summary) if own else None, root=0)
    logs = world.scatter([run.log] * world.Get_size() if own else None, root=0)
    for n in range(ROWS):
        run.log({f"rank {rank}": n})
    logs({f"scattered {rank}": run.config["lr"]})
    summary[f"best {rank}"] = rank
    back = world.gather(run, root=0)
    seen = {
        "machine": os.readlink("/proc/self/ns/net"),
        "pids": os.readlink("/proc/self/ns/pid"),
        "globals": wandb.run is run and logs.__self__ is run,
        "back": back and [each is own for each in back],
        "best": summary[f"best {rank}"],
    }
    if not own:
        wandb.finish()
    world.Barrier()
    if own:
        own.finish()
    with open(f"rank {rank}", "w") as file:
        json.dump(seen, file)


if __name__ == "__main__":
    main()
