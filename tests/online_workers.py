"""A script for test_online.py and benchmarks/rows.py, on any release: runs in online mode.

Usage: online_workers.py SCENE [ARGUMENT ...]. A scene is a function below. It runs against
the server that WANDB_BASE_URL names, and prints what it has seen; what has arrived, the
server knows. Where a scene has to wait for what the test does to the server meanwhile, it
prints a word and waits for a line.
"""

import multiprocessing
import sys

import logging_workers
import wandb
from logging_workers import WORKERS, join

import wandb_ddp_patch  # noqa: F401

CONFIG = {"lr": 0.1, "layers": [1, 2]}


def wait_for_test(word):
    print(word, flush=True)
    assert sys.stdin.readline(), "the test has gone"


def start(method, run, rows, ending):
    context = multiprocessing.get_context(method)
    workers = [
        context.Process(target=logging_workers.work, args=(n, rows, ending, run))
        for n in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    return workers


def rows(method, rows, ending):
    """Four workers log, and end as they are told to."""
    with wandb.init(project="p", config=CONFIG) as run:
        print(join(start(method, run, int(rows), ending)))
        run.log({"owner": 1})


def away(method, rows, ending):
    """The same, while the test takes the server away and brings it back."""
    with wandb.init(project="p", config=CONFIG) as run:
        wait_for_test("begun")
        print(join(start(method, run, int(rows), ending)), flush=True)
        wait_for_test("ended")
        run.log({"owner": 1})


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
