"""One run for all processes that torchrun starts on a machine.

In a clone, in a fresh environment:

    pip install . torch && torchrun --nproc-per-node=2 examples/torchrun_ddp.py

Rank 0 starts the run and hands it to the others as torch hands over any object. Each rank
logs to that run. More commonly, each rank has its own run, or only rank 0 logs.
"""

import os

import torch
import torch.distributed as dist
import wandb
from show_rows import show_rows
from torch.nn.parallel import DistributedDataParallel

import wandb_ddp_patch

wandb_ddp_patch.apply()  # these two lines are added


def run_of_rank_0(rank):
    """Give every rank the one run, which becomes its wandb.run once the rank has logged."""
    run = None
    if rank == 0:
        config = {"lr": 0.05, "steps": 20}
        mode = os.environ.get("WANDB_MODE", "offline")
        run = wandb.init(project="wandb-ddp-patch-demo", config=config, mode=mode)
    things = [run]
    dist.broadcast_object_list(things, src=0)
    return things[0]


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    run = run_of_rank_0(rank)

    torch.manual_seed(rank)  # each rank has data of its own
    inputs = torch.rand(64, 2)
    targets = (inputs.norm(dim=1, keepdim=True) < 0.8).float()
    model = DistributedDataParallel(torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=run.config.lr)
    for _ in range(run.config.steps):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log({f"loss of rank {rank}": loss.item()})
    print(f"Rank {rank}: loss {loss.item():.4f}, logged to run {run.name or run.id}")

    if rank != 0:
        run.finish()  # ends this rank's use of the run: all its rows have arrived
    dist.barrier()
    if rank == 0:
        run.finish()  # ends the run
        show_rows(run)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
