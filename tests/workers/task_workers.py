"""A script for test_tasks.py, on any release: tasks that log a row, and workers that are ended.

Usage: task_workers.py METHOD CASE. Writes down which tasks have returned. The service is
stopped for a moment meanwhile, as it is where a machine is busy.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import wandb
from attach_workers import tree

import wandb_ddp_patch  # noqa: F401

WORKERS, TASKS = 2, 300
services = set()


def freeze():
    """Stop the service for a moment; workers have attached by now."""
    for pid in services:
        os.kill(pid, signal.SIGSTOP)
    threading.Timer(2, lambda: [os.kill(pid, signal.SIGCONT) for pid in services]).start()


def warmed(run, run_tasks):
    """Run some tasks, and then many while the service is stopped."""
    returned = list(run_tasks(task, [(run, n) for n in range(8)]))
    freeze()
    return returned


def task(arguments):
    run, n = arguments
    run.log({"task": n, "more": "x" * 2000})
    return n


def case_with(context, run):
    """Leaving the block ends the workers with SIGTERM."""
    with context.Pool(WORKERS) as pool:
        returned = warmed(run, pool.map)
        return returned + pool.map(task, [(run, n) for n in range(8, TASKS)], chunksize=1)


def case_terminate(context, run):
    pool = context.Pool(WORKERS)
    returned = warmed(run, pool.map)
    results = pool.imap_unordered(task, [(run, n) for n in range(8, TASKS)])
    returned += [next(results) for _ in range(TASKS // 2)]
    pool.terminate()
    return returned


def case_executor(context, run):
    executor = ProcessPoolExecutor(WORKERS, mp_context=context)
    returned = warmed(run, executor.map)
    returned += executor.map(task, [(run, n) for n in range(8, TASKS)])
    for process in executor._processes.values():
        process.terminate()
    return returned


def case_loky(context, run):
    from joblib.externals.loky import get_reusable_executor

    executor = get_reusable_executor(WORKERS)
    returned = warmed(run, executor.map)
    returned += executor.map(task, [(run, n) for n in range(8, TASKS)])
    executor.shutdown(kill_workers=True)
    return returned


def report(run, n, sender, forever):
    run.log({"task": n})
    sender.send(n)
    forever.wait()


def case_pipe(context, run):
    """No pool: a worker says by a pipe that it has logged, and is killed."""
    returned, processes, forever = [], [], context.Event()
    for n in range(8):
        receiver, sender = context.Pipe(duplex=False)
        processes.append(context.Process(target=report, args=(run, n, sender, forever)))
        processes[-1].start()
        returned.append(receiver)
    returned = [receiver.recv() for receiver in returned]
    for process in processes:
        process.kill()
    return returned


def interrupted(run, n, ready):
    run.log({"task": n})
    ready.release()
    while True:  # signal.pause() would sleep on, had the signal come just before it
        time.sleep(0.1)


def case_interrupt(context, run):
    """Ctrl-C reaches every process of the terminal."""
    ready = context.Semaphore(0)
    processes = [context.Process(target=interrupted, args=(run, n, ready)) for n in range(4)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    for process in processes:
        os.kill(process.pid, signal.SIGINT)
    for process in processes:
        process.join()
    return list(range(4))


def main():
    method, case = sys.argv[1:]
    before = set(tree(os.getpid()))
    run = wandb.init(mode="offline", project="p")
    services.update(set(tree(os.getpid())) - before)
    returned = globals()[f"case_{case}"](multiprocessing.get_context(method), run)
    run.finish()
    with open("returned.json", "w") as file:
        json.dump(sorted(returned), file)


if __name__ == "__main__":
    main()
