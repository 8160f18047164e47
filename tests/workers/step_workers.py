"""A script for test_call_forms.py, on any release: four workers that log the same steps.

Usage: step_workers.py METHOD.
"""

import multiprocessing
import sys

import wandb

import wandb_ddp_patch  # noqa: F401

WORKERS, STEPS = 4, 100


def work(run, n):
    for step in range(STEPS):
        if n % 2:
            run.log({"worker": n}, step)
        else:
            wandb.run.log({"worker": n}, step=step) if wandb.run else run.log({"worker": n}, step)


def main():
    context = multiprocessing.get_context(sys.argv[1])
    run = wandb.init(mode="offline", project="p")
    workers = [context.Process(target=work, args=(run, n)) for n in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    run.log({"owner": 1}, step=1000)  # the owner's are wandb's own
    wandb.finish()


if __name__ == "__main__":
    main()
