"""The script that logging_rate.py talks to, on any release: a worker that logs.

It has an offline run. It starts one worker at a time, and answers each line of input
with the seconds that it took, or null where the worker has died:

    start METHOD KEY    a worker, which logs a first row and so attaches
    log ROWS            so many rows more, under KEY
    compare ROWS        so many rows twice: through the worker's run, and by a twin of that
                        with wandb's own methods; answers both times
    beside ROWS         so many rows through the worker, until the owner has made them, and
                        so many of the owner's own; answers both times
    end                 until the worker has ended

It needs wandb alone.
"""

import json
import multiprocessing
import os
import random
import sys
import time
import types

import wandb

import wandb_ddp_patch

OURS = os.path.dirname(wandb_ddp_patch.__file__)


def twin(run):
    """Give an object that is this run, but with wandb's own methods."""
    methods = {n: m for n, m in vars(type(run)).items() if isinstance(m, types.FunctionType)}
    put_on = {n: m for n, m in methods.items() if m.__code__.co_filename.startswith(OURS)}
    upstream = {n: m.__wrapped__ for n, m in put_on.items() if hasattr(m, "__wrapped__")}
    kind = type("Run", (type(run),), upstream)
    made = kind.__new__(kind)
    object.__setattr__(made, "__dict__", run.__dict__)
    return made


def work(run, key, pipe):
    run.log({key: 0})
    pipe.send(None)
    number = 0

    def log(method, rows):
        nonlocal number
        begun = time.perf_counter()
        for _ in range(rows):
            number += 1
            method({key: number})
        return time.perf_counter() - begun

    while True:
        what, rows = pipe.recv()
        if what == "log":
            pipe.send(log(run.log, rows))
        elif what == "compare":
            methods = [run.log, twin(run).log]
            took = {n: log(methods[n], rows) for n in random.sample(range(2), 2)}
            pipe.send([took[0], took[1]])
        else:
            return


class Worker:
    def __init__(self, run, method, key):
        context = multiprocessing.get_context(method)
        self.pipe, pipe = context.Pipe()
        self.process = context.Process(target=work, args=(run, key, pipe))
        self.process.start()
        pipe.close()
        self.pipe.recv()

    def ask(self, what, rows):
        self.pipe.send((what, rows))
        return self.pipe.recv()

    def end(self):
        self.pipe.send(("end", 0))
        self.process.join()


def beside(run, worker, rows):
    def own():
        for number in range(rows):
            run.log({"own": number})

    took = {}
    for name in random.sample(("worker", "own"), 2):
        begun = time.perf_counter()
        # A worker's answer follows its rows: see wandb_ddp_patch/runs/flush.py.
        own() if name == "own" else worker.ask("log", rows)
        took[name] = time.perf_counter() - begun
    return took["worker"], took["own"]


def main():
    run = wandb.init(mode="offline", project="benchmark", config={"lr": 0.1})
    print("ready", flush=True)
    for line in sys.stdin:
        what, *args = line.split()
        begun, took = time.perf_counter(), None
        try:
            if what == "start":
                worker = Worker(run, *args)
            elif what == "beside":
                took = beside(run, worker, *map(int, args))
            elif what == "end":
                worker.end()
            else:
                took = worker.ask(what, int(*args))
            answer = time.perf_counter() - begun if took is None else took
        except (EOFError, OSError):
            answer = None
        print(json.dumps(answer), flush=True)
    run.finish()


if __name__ == "__main__":
    main()
