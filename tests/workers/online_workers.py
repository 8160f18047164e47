"""A script for test_online.py and benchmarks/rows.py, on any release: runs in online mode.

Usage: online_workers.py SCENE [ARGUMENT ...]. A scene is a function named in SCENES. It
runs against the server that WANDB_BASE_URL names, and prints what it has seen; what has
arrived, the server knows. Where a scene has to wait for what the test does to the server
meanwhile, it prints a word and waits for a line.
"""

import json
import multiprocessing
import os
import pickle
import sys

import logging_workers
import wandb
from limits import WAIT_SECONDS
from logging_workers import WORKERS, join

import wandb_ddp_patch

CONFIG = {"lr": 0.1, "layers": [1, 2]}


def wait_for_test(word):
    print(word, flush=True)
    assert sys.stdin.readline(), "the test has gone"


def start(method, function, *args):
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=function, args=(n, *args)) for n in range(WORKERS)]
    for worker in workers:
        worker.start()
    return workers


def log(method, run, rows=5, ending="return"):
    return join(start(method, logging_workers.work, rows, ending, run))


def rows(method, rows, ending):
    """Four workers log, and end as they are told to."""
    with wandb.init(project="p", config=CONFIG) as run:
        print(log(method, run, int(rows), ending))
        run.log({"owner": 1})


def trouble(method, rows, ending):
    """The same, while the test makes trouble for the server."""
    with wandb.init(project="p", config=CONFIG) as run:
        wait_for_test("begun")
        print(log(method, run, int(rows), ending))
        wait_for_test("ended")
        run.log({"owner": 1})


def facts(method):
    """Workers read and write the config, and write the summary."""
    with wandb.init(project="p", config=CONFIG) as run:
        run.log({"owner": 1})
        begun = multiprocessing.get_context(method).Barrier(WORKERS)
        print(join(start(method, _facts, run, begun)))
        run.config.update({"late": True})


def _facts(n, run, begun):
    assert dict(run.config) == CONFIG, dict(run.config)
    begun.wait(WAIT_SECONDS)  # a fork that came later would have what the others write
    run.summary[f"best {n}"] = n
    run.log({f"worker {n}": 0})
    assert dict(wandb.config) == CONFIG, dict(wandb.config)
    run.config[f"of {n}"] = n


def lives(method):
    """A run that is resumed, one beside it, one that fails; workers log to each."""
    run = wandb.init(project="p", id="first")
    log(method, run)
    run.finish()
    run = wandb.init(project="p", id="first", resume="must")
    assert run.resumed
    log(method, run)
    wandb.init(project="p", id="second", reinit=True)  # ends the first
    log(method, wandb.run)
    wandb.finish()
    wandb.init(project="p", id="third")
    log(method, wandb.run)
    raise ValueError("as asked")


def two(method):
    """Two runs at the same time; workers finish the one, and go on with the other."""
    runs = [wandb.init(project="p", id=name, reinit="create_new") for name in ("one", "other")]
    print(join(start(method, _two, *runs)))
    for run in runs:
        run.finish()


def _two(n, one, other):
    for i in range(5):
        one.log({f"worker {n}": i})
    one.finish()
    for i in range(5):
        other.log({f"worker {n}": i, "other": n})


def payloads():
    """Print what is sent to workers, as far as it can be pickled."""
    with wandb.init(project="p", config=CONFIG) as run:
        run.log({"x": 1})
        things = {
            "run": run,
            "config": run.config,
            "wandb.config": wandb.config,
            "summary": run.summary,
            "log": run.log,
            "wandb.log": wandb.log,
        }
        for name, thing in things.items():
            for protocol in range(2, 5):
                print(json.dumps([name, pickle.dumps(thing, protocol).decode("latin-1")]))


def offline(method):
    """Workers log to a run that is synchronised later."""
    run = wandb.init(project="p", id="later", mode="offline", config=CONFIG)
    print(log(method, run))
    run.finish()


def sweep():
    """An agent's function starts workers with spawn(), and passes them nothing."""
    settings = {"method": "grid", "parameters": {"lr": {"values": [1, 2]}}}
    wandb.agent(wandb.sweep(settings, project="p"), function=_trial, project="p")
    sys.stdout.flush()
    # Some releases' agents leave threads that wait for ever.
    os._exit(0)


def _trial():
    with wandb.init():
        wandb_ddp_patch.spawn(_rank, nprocs=2)


def _rank(rank):
    for i in range(5):
        wandb.log({f"worker {rank}": i, "lr used": wandb.config["lr"]})


def shared(label):
    """One of several processes that each call wandb.init() for one run, as W&B's guide says."""
    primary = label == "0"
    settings = wandb.Settings(x_primary=primary, x_label=label)
    if not primary:
        settings.x_update_finish_state = False
    with wandb.init(project="p", id="shared", mode="shared", settings=settings) as run:
        for i in range(5):
            run.log({f"worker {label}": i})


SCENES = [rows, trouble, facts, lives, two, payloads, offline, sweep, shared]

if __name__ == "__main__":
    {scene.__name__: scene for scene in SCENES}[sys.argv[1]](*sys.argv[2:])
