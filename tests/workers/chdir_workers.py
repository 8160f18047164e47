"""A script for test_folders.py, on any release: a worker that changes its current folder.

Usage: chdir_workers.py START_METHOD.
"""

import multiprocessing
import os
import sys

import wandb

import wandb_ddp_patch  # noqa: F401


def work(run):
    os.makedirs("elsewhere")
    os.chdir("elsewhere")
    run.log({"html": wandb.Html("<b>bold</b>")})
    with open("saved.txt", "w") as file:
        file.write("saved")
    run.save("saved.txt")


if __name__ == "__main__":
    run = wandb.init(mode="offline", project="p")
    context = multiprocessing.get_context(sys.argv[1])
    worker = context.Process(target=work, args=(run,))
    worker.start()
    worker.join()
    run.finish()
