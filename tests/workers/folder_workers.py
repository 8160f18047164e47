"""A script for test_folders.py, on any release: a worker that sees other temporary folders.

Usage: folder_workers.py [EXECUTABLE], which the worker is started with instead of Python.
"""

import multiprocessing
import sys

import wandb
from limits import WAIT_SECONDS

import wandb_ddp_patch  # noqa: F401

ROWS = 50


def work(run):
    for n in range(ROWS):
        run.log({"row": n})
    with open("said", "w") as file:
        file.write(str(run.summary["row"]))


def main():
    context = multiprocessing.get_context("spawn")
    if sys.argv[1:]:
        context.set_executable(sys.argv[1])
    run = wandb.init(mode="offline", project="p")
    worker = context.Process(target=work, args=(run,))
    worker.start()
    worker.join(WAIT_SECONDS)
    with open("code", "w") as file:
        file.write(str(worker.exitcode))
    worker.kill()
    run.finish()


if __name__ == "__main__":
    main()
