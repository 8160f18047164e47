"""How long four workers take to start: torch's spawn, spawn() cold and warm, fork.

Every round starts each arm once, in turn, so that what else the machine does hits all
alike: torch.multiprocessing.spawn, spawn() in a new process (cold), and in this one,
where the forkserver is warm, spawn() and start_processes with fork. The workers do
nothing; the script imports torch and wandb and has an offline run, as a training
script has. Printed are medians and the medians of each round's ratios.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch.multiprocessing as mp
import wandb
from tqdm import tqdm

import wandb_ddp_patch


def nothing(rank):
    pass


def seconds(function, *args, **kwargs):
    begun = time.perf_counter()
    function(*args, **kwargs)
    return time.perf_counter() - begun


def cold(workers):
    """Measure a first spawn(), in a process of its own."""
    command = [sys.executable, __file__, "--cold", "--workers", str(workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.update(WANDB_SILENT="true", WANDB_MODE="offline")
    n = args.workers
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run = wandb.init(project="benchmark", config={"lr": 0.1})
        if args.cold:
            print(seconds(wandb_ddp_patch.spawn, nothing, nprocs=n))
        else:
            measure(n, args.rounds)
        run.finish()
        os.chdir("/")


def measure(n, rounds):
    arms = {
        "torch.multiprocessing.spawn": lambda: seconds(mp.spawn, nothing, nprocs=n),
        "spawn(), cold": lambda: cold(n),
        "spawn(), warm": lambda: seconds(wandb_ddp_patch.spawn, nothing, nprocs=n),
        "fork": lambda: seconds(mp.start_processes, nothing, nprocs=n, start_method="fork"),
    }
    arms["spawn(), warm"]()  # warms it
    took = {name: [] for name in arms}
    for _ in tqdm(range(rounds), unit="round"):
        for name, arm in arms.items():
            took[name].append(arm())
    spawn, fork = took["torch.multiprocessing.spawn"], took["fork"]
    print(f"{n} workers, {rounds} rounds, {os.cpu_count()} cores")
    print("| | median, s | of torch's spawn | of fork |")
    print("|---|---|---|---|")
    for name, times in took.items():
        of_spawn, of_fork = (
            statistics.median(t / base for t, base in zip(times, baseline))
            for baseline in (spawn, fork)
        )
        print(f"| {name} | {statistics.median(times):.3f} | {of_spawn:.4f} | {of_fork:.2f} |")


if __name__ == "__main__":
    main()
