"""A script for test_soak.py, on any release: many runs, many tasks, and what they leave.

Usage: soak_workers.py RUNS TASKS. Writes "seen.json": what is left in this process after
each run, once it is warm, and in the pool's worker after the run's last task. TASKS is 0 for
what wandb alone leaves here.
"""

import atexit
import gc
import json
import multiprocessing
import os
import sys
import tempfile
import threading
from multiprocessing import util

import wandb
from limits import WAIT_SECONDS

import wandb_ddp_patch  # noqa: F401

THREADS = 3
WARM = 0.2  # the share of runs and tasks after which nothing grows any more


def left():
    """Count what this process holds."""
    gc.collect()  # a run of wandb's is in circles
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    names = os.listdir(tempfile.gettempdir())
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "finalizers": len(util._finalizer_registry),
        "at exit": atexit._ncallbacks(),
        "files": sum(name.startswith("wandb_ddp_patch-") for name in names),
        "runs": sum(type(each).__name__ == "Run" for each in gc.get_objects()),
        "MiB": pages * os.sysconf("SC_PAGESIZE") >> 20,
    }


def log(run, key, number):
    run.log({key: number})


def task(arguments):
    run, number, last = arguments
    threads = [threading.Thread(target=log, args=(run, f"t{n}", number)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if number % 2:
        run.finish()  # the worker lets go of it; the next task loads it anew
    return left() if last else None


def main():
    runs, tasks = map(int, sys.argv[1:])
    per_run = tasks // runs
    context = multiprocessing.get_context("fork")
    seen = {"owner": [], "worker": []}
    rows = 0
    with context.Pool(1) as pool:
        for n in range(runs):
            run = wandb.init(mode="offline", project="p")
            numbers = range(n * per_run, (n + 1) * per_run)
            jobs = [(run, number, number == numbers[-1]) for number in numbers]
            results = pool.map_async(task, jobs, chunksize=1).get(WAIT_SECONDS)
            rows += THREADS * per_run
            run.finish()
            del run, jobs
            if n >= runs * WARM:
                seen["owner"].append(left())
                seen["worker"] += results[-1:]
        pool.close()
        pool.join()
    with open("seen.json", "w") as file:
        json.dump({**seen, "rows": rows}, file)


if __name__ == "__main__":
    main()
