"""A script for test_endings.py, on any release: workers that end in a way of their own.

Usage: ending_workers.py CASE [METHOD]. Each of two workers logs ROWS rows while W&B's service
is stopped for a moment, as it is where a machine is busy. What they log is more than the kernel
holds for them, so that some of it waits in the worker.
"""

import os
import signal
import sys
import threading

import wandb
from crowd_workers import tree

import wandb_ddp_patch

wandb_ddp_patch.apply()

WORKERS, ROWS = 2, 400
services = set()


def freeze():
    for pid in services:
        os.kill(pid, signal.SIGSTOP)
    threading.Timer(2, lambda: [os.kill(pid, signal.SIGCONT) for pid in services]).start()


def burst(run, n):
    for i in range(ROWS):
        run.log({"worker": n, "row": i, "more": "x" * 500})
    return n


def first_row(run, n):
    run.log({"first": n})
    return n


def returns(run, n, barrier):
    first_row(run, n)
    barrier.wait()
    burst(run, n)


def tears_down(run, n, barrier):
    returns(run, n, barrier)
    (wandb.teardown if hasattr(wandb, "teardown") else wandb._teardown)()


def leaves_at_once(run, n, barrier):
    returns(run, n, barrier)
    os._exit(0)


def processes(package, method, run, work):
    context = package.get_context(method)
    barrier = context.Barrier(WORKERS + 1)
    workers = [context.Process(target=work, args=(run, n, barrier)) for n in range(WORKERS)]
    for worker in workers:
        worker.start()
    barrier.wait()
    freeze()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * WORKERS


def pool(package, method, run, **options):
    """Finish the run as soon as the last result is there, before the workers have ended."""
    workers = package.get_context(method).Pool(WORKERS, **options)
    for n in range(2 * WORKERS):
        workers.apply(first_row, (run, n))
    freeze()
    for result in [workers.apply_async(burst, (run, n)) for n in range(WORKERS)]:
        result.get()
    run.finish()
    workers.terminate()


def forks(run, end):
    """Fork without any library; return the workers once a pipe says that all have logged."""
    started, start, done = [os.pipe() for _ in range(3)]
    pids = []
    for n in range(WORKERS):
        pid = os.fork()
        if not pid:
            first_row(run, n)
            os.write(started[1], b"x")
            os.read(start[0], 1)
            burst(run, n)
            os.write(done[1], b"x")
            end()
        pids.append(pid)
    for _ in pids:
        os.read(started[0], 1)
    freeze()
    os.write(start[1], b"x" * WORKERS)
    for _ in pids:
        os.read(done[0], 1)
    return pids


def barrier(run):
    """The owner finishes the run when all have logged, as ranks do; the workers live on."""
    pids = forks(run, signal.pause)
    run.finish()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)


def outlives(run, method):
    """The executor's workers end after the run: all that they have logged is there."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
        assert sorted(executor.map(burst, [run] * WORKERS, range(WORKERS))) == [0, 1]
        run.finish()


def main():
    case, method = sys.argv[1], (sys.argv[2:] or ["fork"])[0]
    run = wandb.init(mode="offline", project="p")
    services.update(tree(os.getpid()))
    if case in ("multiprocess", "multiprocess-pool"):
        import multiprocess

        if case == "multiprocess":
            processes(multiprocess, method, run, returns)
        else:
            pool(multiprocess, method, run)
    elif case in ("billiard-pool", "billiard-one-task"):
        import billiard

        pool(billiard, method, run, maxtasksperchild=1 if "one" in case else None)
    elif case in ("teardown", "os._exit"):
        import multiprocessing

        work = tears_down if case == "teardown" else leaves_at_once
        processes(multiprocessing, method, run, work)
        run.log({"owner": 1})  # its service is still there
    elif case == "fork":
        for pid in forks(run, lambda: os._exit(0)):
            os.waitpid(pid, 0)
    elif case == "killed":
        for pid in forks(run, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            os.waitpid(pid, 0)
    elif case == "barrier":
        barrier(run)
    else:
        outlives(run, method)
    run.finish()


if __name__ == "__main__":
    main()
