"""A program to be frozen, see test_frozen_app.py."""

import multiprocessing
import sys

import wandb

import wandb_ddp_patch


def work(rank, run, config, results):
    for n in range(3):
        run.log({f"rank {rank}": n})
    results.put(config.lr)
    results.put(run.config.lr)


if __name__ == "__main__":
    multiprocessing.freeze_support()
    print("skipped:", [each for each in wandb_ddp_patch.status() if each.state == "skipped"])
    run = wandb.init(project="p", config={"lr": 0.5})
    context = multiprocessing.get_context(sys.argv[1])
    results = context.SimpleQueue()
    args = run, wandb.config, results
    workers = [context.Process(target=work, args=(rank, *args)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print([results.get() for _ in range(4)])
    run.finish()
