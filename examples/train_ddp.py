"""The script of https://github.com/wandb/wandb/issues/2007, completed.

It trains a classifier of handwritten digits (scikit-learn's, 8 by 8 pixels)
with DistributedDataParallel: one worker per GPU with NCCL, or two on the CPU
with gloo, unless --workers says otherwise. The parent starts the run and hands
its config to the workers; rank 0 logs. Without wandb_ddp_patch it dies where
the report says it does.

In a clone, in a fresh environment:

    pip install ".[demo]" && python examples/train_ddp.py
"""

import argparse
import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import wandb
from show_rows import show_rows
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from tqdm import tqdm

import wandb_ddp_patch

wandb_ddp_patch.apply()  # these two lines are added


def digits():
    """Return images and labels to train on, and images and labels held out."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16.0, labels, test_size=0.25, random_state=0)
    train_images, test_images, train_labels, test_labels = map(torch.tensor, parts)
    return (
        TensorDataset(train_images.float(), train_labels),
        TensorDataset(test_images.float(), test_labels),
    )


def train(rank, args):
    """Train in one worker. ``args.config`` is the parent's wandb.config."""
    config = args.config
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    dist.init_process_group("nccl" if on_gpu else "gloo", rank=rank, world_size=args.world_size)
    torch.manual_seed(config.seed)

    train_set, test_set = digits()
    sampler = DistributedSampler(train_set, args.world_size, rank, seed=config.seed)
    loader = DataLoader(train_set, config.batch_size, sampler=sampler)
    model = nn.Sequential(nn.Linear(64, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 10))
    model = DistributedDataParallel(model.to(device), device_ids=[rank] if on_gpu else None)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    loss_of = nn.CrossEntropyLoss()

    # None: a bar in a terminal, and none in a pipe or a file, which would keep each of its states.
    hidden = None if rank == 0 else True
    epochs = tqdm(range(config.epochs), desc="training", unit="epoch", disable=hidden)
    for epoch in epochs:
        sampler.set_epoch(epoch)
        total = 0.0
        for images, labels in loader:
            loss = loss_of(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        if rank == 0:
            images, labels = test_set.tensors
            with torch.no_grad():
                guesses = model.module(images.to(device)).argmax(1).cpu()
            accuracy = (guesses == labels).float().mean().item()
            args.run.log({"loss": total / len(loader), "accuracy": accuracy})
            epochs.set_postfix(accuracy=f"{accuracy:.1%}")
            done = epoch + 1
            if epochs.disable and (done % 5 == 0 or done == config.epochs):
                print(f"Epoch {done} of {config.epochs}: accuracy {accuracy:.1%}", flush=True)
    dist.destroy_process_group()


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--workers", type=int, help="by default one for each GPU, or two")
    args = parser.parse_args()

    mode = os.environ.get("WANDB_MODE")
    if not mode:
        mode = "online" if wandb.login(prompt=False) else "offline"
    defaults = {"epochs": args.epochs, "batch_size": 32, "lr": 0.01, "hidden": 64, "seed": 0}
    run = wandb.init(project="wandb-ddp-patch-demo", config=defaults, mode=mode)

    args.config = wandb.config
    args.run = run
    args.world_size = args.workers or torch.cuda.device_count() or 2
    os.environ["MASTER_ADDR"] = "localhost"
    os.environ["MASTER_PORT"] = str(free_port())
    print(f"torch.multiprocessing.spawn starts {args.world_size} workers")
    mp.spawn(train, nprocs=args.world_size, args=(args,))

    print(f"Accuracy on digits that it has not seen: {run.summary.get('accuracy', 0):.1%}")
    folder, url = os.path.dirname(run.dir), run.url if mode == "online" else None
    run.finish()
    show_rows(run)
    print(f"The run is in {folder}")
    if url:
        print(f"Look at it: {url}")
    else:
        print(f"Look at it in the terminal: wandb leet {folder}")
        print(f"Upload it, once logged in:  wandb sync {folder}")


if __name__ == "__main__":
    main()
