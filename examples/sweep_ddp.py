"""A sweep whose trials each train in two processes with DistributedDataParallel.

In a clone, in a fresh environment:

    pip install . torch && python examples/sweep_ddp.py

wandb.agent() calls trial() in this process, which starts the run; spawn() starts the workers,
where wandb.run is that run, and wandb.config its config. Sweeps need W&B's server: if you are not
logged in, or WANDB_MODE is offline, the trials' parameters are drawn here instead, at random.
"""

import os
import random
import socket

import torch
import torch.distributed as dist
import wandb
from show_rows import show_rows
from torch.nn.parallel import DistributedDataParallel

import wandb_ddp_patch

PROJECT = "wandb-ddp-patch-demo"
SWEEP = {
    "method": "random",
    "metric": {"name": "loss", "goal": "minimize"},
    "parameters": {
        "lr": {"values": [0.01, 0.03, 0.1]},
        "hidden": {"values": [8, 16, 32]},
        "steps": {"value": 20},
    },
}
TRIALS, WORKERS = 3, 2


def train(rank):
    """Train in one worker, to which nothing is passed."""
    config = wandb.config  # with the parameters that the sweep has chosen
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORKERS)
    torch.manual_seed(rank)
    inputs = torch.rand(64, 2)
    targets = (inputs.norm(dim=1, keepdim=True) < 0.8).float()
    model = torch.nn.Sequential(
        torch.nn.Linear(2, config.hidden), torch.nn.ReLU(), torch.nn.Linear(config.hidden, 1)
    )
    model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    for _ in range(config.steps):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() / WORKERS
        dist.all_reduce(mean)
        if rank == 0:
            wandb.log({"loss": mean.item()})
    dist.destroy_process_group()


def trial(**options):
    """One trial: wandb.agent() calls it without arguments."""
    with wandb.init(project=PROJECT, **options) as run:
        os.environ["MASTER_ADDR"] = "localhost"
        os.environ["MASTER_PORT"] = str(free_port())
        wandb_ddp_patch.spawn(train, nprocs=WORKERS)
        print(f"lr {run.config.lr}, hidden {run.config.hidden}: loss {run.summary['loss']:.4f}")
    show_rows(run)


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def drawn():
    """Draw the parameters of a trial, as the server would."""
    return {
        name: choice["value"] if "value" in choice else random.choice(choice["values"])
        for name, choice in SWEEP["parameters"].items()
    }


def main():
    wandb_ddp_patch.warm_up()
    offline = os.environ.get("WANDB_MODE", "online") != "online"
    if not offline and wandb.login(prompt=False):
        wandb.agent(wandb.sweep(SWEEP, project=PROJECT), trial, project=PROJECT, count=TRIALS)
    else:
        for _ in range(TRIALS):
            trial(config=drawn(), mode="offline", group="sweep")


if __name__ == "__main__":
    main()
