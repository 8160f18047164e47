"""A script for test_own_runs.py, on any release: workers with runs of their own and one passed.

Usage: own_run_workers.py METHOD ORDER. ORDER is own_first, passed_first, interleaved, two_passed,
left (the passed run is left, and its owner ends, before the own one begins) or unfinished.
"""

import multiprocessing
import os
import sys

import wandb

import wandb_ddp_patch  # noqa: F401


def own_run(n):
    return wandb.init(mode="offline", project="own", id=f"own{n}")


def work(order, n, run, second):
    if order in ("own_first", "interleaved"):
        mine = own_run(n)
        run.log({"passed": n})
        assert wandb.run is mine, wandb.run
        wandb.log({"own": n})
        if order == "interleaved":
            run.log({"passed": n})
            mine.log({"own": n})
            run.log({"passed": n})
        assert wandb.run is mine, wandb.run
        mine.finish()
    elif order == "passed_first":
        run.log({"passed": n})
        mine = own_run(n)
        mine.log({"own": n})
        assert wandb.run is mine, wandb.run
        run.log({"passed": n})
        wandb.log({"own": n})
        mine.finish()
    elif order == "two_passed":
        run.log({"passed": n})
        second.log({"second": n})
        run.log({"passed": n})
    elif order == "unfinished":
        own_run(n).log({"own": n})


def pooled(arguments):
    work(*arguments)
    return os.getpid()


def main():
    method, order = sys.argv[1:]
    context = multiprocessing.get_context(method)
    early = context.Pool(2)  # older than the run, with its own connection by then
    early.map(pooled, [("unfinished", f"early{n}", None, None) for n in range(2)], chunksize=1)
    if order == "unfinished":
        early.close()
        early.join()
        return
    run = wandb.init(mode="offline", project="p", id="passed")
    second = None
    if order == "two_passed":
        second = wandb.init(mode="offline", project="p", id="second", reinit="create_new")
    workers = [context.Process(target=work, args=(order, n, run, second)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    codes = [worker.exitcode for worker in workers]
    early.map(pooled, [(order, f"pool{n}", run, second) for n in range(2)], chunksize=1)
    early.close()
    early.join()
    run.finish()
    if second:
        second.finish()
    with open("codes", "w") as file:
        file.write(str(codes))


if __name__ == "__main__":
    main()
