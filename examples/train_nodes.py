"""Train on several machines, with one run that every rank logs to.

On each machine, in a clone and a fresh environment, with the first one's address:

    pip install ".[demo]" && torchrun --nnodes=2 --nproc-per-node=2 --node-rank=N \\
        --master-addr=ADDRESS --master-port=29500 examples/train_nodes.py

Rank 0 starts the run, and broadcast() gives it to all others: on rank 0's machine through W&B's
own service, elsewhere over the network. "make demo-nodes" runs it on two machines that are
parts of this one.
"""

import argparse
import os
import time

import torch
import torch.distributed as dist
import wandb
from show_rows import show_rows
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from train_ddp import digits

import wandb_ddp_patch


def train(run, rank, pause):
    """Train; log each rank's loss at each step. Returns the number of rows."""
    config, on_gpu = run.config, torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    train_set, _ = digits()
    sampler = DistributedSampler(train_set, seed=config.seed)
    loader = DataLoader(train_set, config.batch_size, sampler=sampler)
    torch.manual_seed(config.seed)
    model = nn.Sequential(nn.Linear(64, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 10))
    model = DistributedDataParallel(model.to(device), device_ids=[device] if on_gpu else None)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    loss_of, rows = nn.CrossEntropyLoss(), 0
    for epoch in range(config.epochs):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            loss = loss_of(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            # A tensor can be logged as it is: it is sent as a number.
            run.log({f"loss of rank {rank}": loss, "epoch": epoch})
            rows += 1
            time.sleep(pause)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each step")
    args = parser.parse_args()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank = dist.get_rank()
    if rank == 0:
        config = {"epochs": args.epochs, "batch_size": 32, "lr": 0.01, "hidden": 64, "seed": 0}
        wandb.init(project="wandb-ddp-patch-demo", config=config)

    run = wandb_ddp_patch.broadcast()
    rows = train(run, rank, args.pause)

    run.log({f"rows of rank {rank}": rows + 1})
    if rank != 0:
        run.finish()  # this rank's part: waits until its rows are in the run
    dist.barrier()
    if rank == 0:
        run.finish()
        show_rows(run)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
