"""A script: carries things to a worker on another machine, by each carrier that is named.

Usage: carriers_elsewhere.py CARRIER... Prints a JSON object: what was wrong, by carrier; None
where nothing was. The other machine runs tests/elsewhere_jobs.py. By one of carriers_python.py,
the worker there hands on what it has got, unused, to workers of its own.
"""

import copy
import functools
import io
import json
import multiprocessing
import os
import pickle
import queue
import sys
import tempfile
import time
from multiprocessing.managers import BaseManager
from pathlib import Path

import carried
import carriers_python
import elsewhere_jobs
import torch
import wandb
from rows import finished_run

from wandb_ddp_patch import runfile
from wandb_ddp_patch.probes import multiprocess

# --- what a worker there does -----------------------------------------------------


def hand_on(name, parcel):
    carriers_python.prepare(name)({**parcel, "owner": os.getpid()})


def load(module, data):
    carried.use(LOADS[module](data))


def copied(how, parcel):
    """Use copies, and then what they are copies of."""
    things = {what: how(thing) for what, thing in parcel["things"].items()}
    carried.use({**parcel, "things": things})
    carried.use(parcel)


def get(address):
    """Take it from a queue of a process on the owner's machine."""
    Queues.register("queue")
    there = Queues(address, KEY)
    there.connect()
    carried.use(there.queue().get())


# --- how it gets there --------------------------------------------------------------


def in_job(function, *arguments):
    return lambda parcel: multiprocess.in_worker(function, *arguments, parcel)


def dumped(module, dumps):
    return lambda parcel: multiprocess.in_worker(load, module, dumps(parcel))


def by_buffer(dump):
    def dumps(parcel):
        buffer = io.BytesIO()
        dump(parcel, buffer)
        return buffer.getvalue()

    return dumps


def by_module(module, function):
    """Call a module's function; the module is imported then."""

    def call(*arguments):
        __import__(module)
        return getattr(sys.modules[module], function)(*arguments)

    return call


def from_buffer(loads, **options):
    return lambda data: loads(io.BytesIO(data), **options)


KEY, TENSORS = b"of the manager", ["watched model"]


class Queues(BaseManager):
    """Gives away queues, over the network."""


def managed(parcel):
    """Put it into a queue of a manager, which is another process than the owner."""
    # By fork, so that the queue is known there; and each time the same one.
    Queues.register("queue", functools.lru_cache(None)(queue.Queue))
    address, context = (os.environ["WANDB_DDP_PATCH_SHARE"], 0), multiprocessing.get_context("fork")
    # torch has taught multiprocessing's pickler to leave a tensor in this machine's memory.
    things = {what: thing for what, thing in parcel["things"].items() if what not in TENSORS}
    with Queues(address, KEY, ctx=context) as manager:
        manager.queue().put({**parcel, "things": things})
        multiprocess.in_worker(get, manager.address)


LOADS = {
    "pickle": pickle.loads,
    "cloudpickle": by_module("cloudpickle", "loads"),
    "dill": by_module("dill", "loads"),
    "joblib": from_buffer(by_module("joblib", "load")),
    "torch": from_buffer(torch.load, weights_only=False),
}
CARRIERS = {
    "pickle": dumped("pickle", pickle.dumps),
    "cloudpickle": dumped("cloudpickle", by_module("cloudpickle", "dumps")),
    "dill": dumped("dill", by_module("dill", "dumps")),
    "joblib.dump": dumped("joblib", by_buffer(by_module("joblib", "dump"))),
    "torch.save": dumped("torch", by_buffer(torch.save)),
    "a manager's queue": managed,
    "copy.copy": in_job(copied, copy.copy),
    "copy.deepcopy": in_job(copied, copy.deepcopy),
    **{name: in_job(hand_on, name) for name in carriers_python.CARRIERS},
}


def carry(name, things, folder):
    folder.mkdir()
    CARRIERS[name]({"things": things, "folder": str(folder), "owner": None})


def check_rows(folder, rows, without):
    """Look for the rows of each worker that has noted what it has used."""
    for what in carried.WHAT:
        if what in without:
            continue
        done = [path.name for path in folder.glob(f"{what} *")]
        carried.check(done, f"no worker has the {what}")
        for name in done if what in ("run", "media") else ():
            kept = sum(name in row for row in rows)
            carried.check(kept >= carried.ROWS, f"{name}: {kept} of {carried.ROWS} rows")


def main(names):
    multiprocess._start = elsewhere_jobs.start
    found, shared = {}, Path.cwd()
    os.chdir(tempfile.mkdtemp())  # the other machine has none of the run's files
    run = wandb.init(mode="offline", project="p", config=carried.CONFIG)
    things = {what: carried.make(what, run) for what in carried.WHAT}
    for n, name in enumerate(names):
        begun = time.monotonic()
        try:
            carry(name, things, shared / str(n))
            found[name] = None
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {time.monotonic() - begun:.1f} s", flush=True)
    for what, thing in things.items():
        carried.still_works(what, thing, run)
    run.finish()
    file = finished_run(os.getcwd())
    for n, name in enumerate(names):
        try:
            without = TENSORS if name == "a manager's queue" else ()
            check_rows(shared / str(n), runfile.history(file), without)
        except carried.Different as error:
            found[name] = found[name] or str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    import carriers_elsewhere  # what is pickled is to be found there

    carriers_elsewhere.main(sys.argv[1:])
