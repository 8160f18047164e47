"""A script for test_endings.py, on any release: workers that end in a way of their own.

Usage: ending_workers.py CASE [METHOD]. Each of two workers logs ROWS rows while W&B's service
is slow, so that some of what they log waits in the kernel, and, with wandb alone, in the worker.
"""

import contextlib
import os
import signal
import sys
import threading
import time

import wandb
from attach_workers import tree

import wandb_ddp_patch

wandb_ddp_patch.apply()

WORKERS, ROWS, OWN_ROWS = 2, 400, 50
services = set()
over = threading.Event()  # from when on it works as ever


def slow_down():
    """Let the service work for a moment now and then, as where a machine is busy."""

    def throttle():
        while not over.wait(0.002):
            for signal_, seconds in ((signal.SIGSTOP, 0.1), (signal.SIGCONT, 0)):
                for pid in services:
                    with contextlib.suppress(ProcessLookupError):  # it has ended
                        os.kill(pid, signal_)
                time.sleep(seconds)

    threading.Thread(target=throttle).start()
    threading.Timer(5, over.set).start()


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
    slow_down()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * WORKERS


def pool(package, method, run, **options):
    """Finish the run as soon as the last result is there, before the workers have ended."""
    workers = package.get_context(method).Pool(WORKERS, **options)
    for n in range(2 * WORKERS):
        workers.apply(first_row, (run, n))
    slow_down()
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
    slow_down()
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


def own_run(n):
    """A run of the worker's own, which it does not finish."""
    run = wandb.init(mode="offline", project="own", id=f"own{n}")
    for row in range(OWN_ROWS):
        run.log({"row": row})


def own_runs(library):
    if library == "billiard":
        import billiard

        pool = billiard.get_context("fork").Pool(WORKERS, maxtasksperchild=1)
        pool.map(own_run, range(WORKERS), chunksize=1)
        pool.close()
        pool.join()
    else:
        import multiprocess

        workers = [multiprocess.Process(target=own_run, args=(n,)) for n in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def main():
    case, method = sys.argv[1], (sys.argv[2:] or ["fork"])[0]
    if case == "own":
        return own_runs(method)
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
    over.set()


if __name__ == "__main__":
    main()
