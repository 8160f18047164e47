"""A script for test_parent_run.py, on any release: workers that are passed nothing.

Usage: parent_run_workers.py CASE METHOD
"""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import wandb

import wandb_ddp_patch

wandb_ddp_patch.apply()

WORKERS = 2


def work(n):
    assert wandb.run is None, wandb.run  # so scripts that ask for it start their own
    assert wandb.config.lr == 0.25
    assert "lr" in wandb.config and wandb.config["lr"] == dict(wandb.config)["lr"] == 0.25
    wandb.log({"worker": n})
    assert wandb.run.id == "theirs"
    return n


def log(n):
    wandb.log({"worker": n})
    return n


def nested(n):
    log_in(multiprocessing.get_context("spawn"), [n])


def own(n):
    """A worker with a run of its own: what comes after it is no longer the parent's."""
    mine = wandb.init(mode="offline", project="own", id=f"own{n}")
    mine.log({"own": n})
    mine.finish()
    try:
        wandb.log({"worker": n})
    except wandb.Error:
        return
    raise AssertionError("it was logged to the parent's run")


def refused(n):
    try:
        wandb.log({"worker": n})
    except Exception as error:
        assert "wandb.init()" in str(error), error
        return
    raise AssertionError("it was logged")


def secrets(n):
    """What came with this process holds no API key."""
    record = multiprocessing.current_process()._config
    (payload,) = [value for key, value in record.items() if "wandb" in key]
    assert isinstance(payload, bytes) and b"0123456789" not in payload
    log(n)


def log_in(context, arguments, target=log):
    workers = [context.Process(target=target, args=(n,)) for n in arguments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


def in_a_pool(context):
    with context.Pool(WORKERS) as pool:
        assert pool.map(log, range(WORKERS)) == list(range(WORKERS))


def in_an_executor(context):
    with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
        assert list(executor.map(log, range(WORKERS))) == list(range(WORKERS))


class Items(list):
    def __getitem__(self, n):
        return log(list.__getitem__(self, n))


def in_a_loader(context):
    from torch.utils.data import DataLoader

    loader = DataLoader(Items(range(WORKERS)), num_workers=WORKERS, multiprocessing_context=context)
    assert sorted(int(item) for item in loader) == list(range(WORKERS))


def in_loky(context):
    from joblib import Parallel, delayed

    assert Parallel(n_jobs=WORKERS)(delayed(log)(n) for n in range(WORKERS)) == [0, 1]


def in_torch(context):
    import torch.multiprocessing

    torch.multiprocessing.spawn(work, nprocs=WORKERS)


def in_multiprocess(context):
    import multiprocess  # later than wandb.init()

    with multiprocess.get_context(context.get_start_method()).Pool(WORKERS) as pool:
        assert pool.map(log, range(WORKERS)) == list(range(WORKERS))


CASES = {
    "process": lambda context: log_in(context, range(WORKERS), work),
    "nested": lambda context: log_in(context, range(WORKERS), nested),
    "own": lambda context: log_in(context, range(WORKERS), own),
    "secrets": lambda context: log_in(context, range(WORKERS), secrets),
    "pool": in_a_pool,
    "executor": in_an_executor,
    "loader": in_a_loader,
    "loky": in_loky,
    "torch": in_torch,
    "multiprocess": in_multiprocess,
}


def main():
    case, method = sys.argv[1:]
    context = multiprocessing.get_context(method)
    if case == "refused":  # before there is a run, with one that is finished, or with the patch off
        log_in(context, range(WORKERS), refused)
    run = wandb.init(mode="offline", project="p", id="theirs", config={"lr": 0.25})
    if case in CASES:
        CASES[case](context)
    elif os.environ.get("WANDB_DDP_PATCH") == "0":
        log_in(context, range(WORKERS), refused)
    run.finish()
    if case == "refused":
        log_in(context, range(WORKERS), refused)


if __name__ == "__main__":
    main()
