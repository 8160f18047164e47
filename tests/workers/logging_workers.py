"""A script for test_rows.py and benchmarks/rows.py, on any release: workers that log.

Usage: logging_workers.py METHOD ROWS ENDING [WORKERS]. ENDING is one of ENDINGS, or "mixed"
and a number, for another one in each worker. Prints what the workers did; the rows
are counted afterwards, from the .wandb file.
"""

import multiprocessing
import os
import sys
import time

import wandb
from limits import AT_ONCE_SECONDS, WAIT_SECONDS

import wandb_ddp_patch  # noqa: F401

WORKERS = 4
# Turned off, workers of some releases hang: rows.py counts what they have logged.
JOIN_SECONDS = 60 if os.environ.get("WANDB_DDP_PATCH") == "0" else WAIT_SECONDS
ENDINGS = ["return", "run.finish", "wandb.finish", "with", "exit", "raise"]


def work(n, rows, ending, run):
    for i in range(rows):
        run.log({f"worker {n}": i})
    if ending.startswith("mixed"):
        ending = ENDINGS[(int(ending[5:]) + n) % len(ENDINGS)]
    if ending == "run.finish":
        run.finish()
    elif ending == "wandb.finish":
        wandb.finish()
    elif ending == "with":
        with run:
            pass
    elif ending == "exit":
        sys.exit(3)
    elif ending == "raise":
        raise ValueError("as asked")


def late(n, attached, finished, results, run):
    if attached is not None:
        run.log({"early": n})
        attached.release()
    finished.wait()
    begun = time.monotonic()
    try:
        run.log({"late": n})
    except wandb.errors.UsageError as error:
        results.put((run.id in str(error), time.monotonic() - begun < AT_ONCE_SECONDS))
    else:
        results.put("silence")


def join(workers):
    """Wait for workers, end those that hang, and give their exit codes."""
    deadline = time.monotonic() + JOIN_SECONDS
    for worker in workers:
        worker.join(max(0, deadline - time.monotonic()))
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    return codes


def main():
    method, rows, ending = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    numbers = range(int(sys.argv[4]) if sys.argv[4:] else WORKERS)
    context = multiprocessing.get_context(method)
    run = wandb.init(mode="offline", project="p", config={"lr": 1})
    if ending.startswith("owner finishes"):
        attached = context.Semaphore(0) if ending.endswith("attached") else None
        finished, results = context.Event(), context.Queue()
        args = (attached, finished, results, run)
        workers = [context.Process(target=late, args=(n, *args)) for n in numbers]
        for worker in workers:
            worker.start()
        for _ in workers if attached is not None else ():
            assert attached.acquire(timeout=WAIT_SECONDS)
        run.finish()
        finished.set()
        print([results.get(timeout=WAIT_SECONDS) for _ in workers])
    else:
        workers = [context.Process(target=work, args=(n, rows, ending, run)) for n in numbers]
        for worker in workers:
            worker.start()
    print(join(workers))
    run.log({"owner": 1}) if not ending.startswith("owner") else None
    run.finish()


if __name__ == "__main__":
    main()
