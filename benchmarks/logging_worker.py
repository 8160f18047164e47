"""The script that logging_rate.py talks to, on any release: workers that log.

It has an offline run. For each line of input, METHOD ROWS KEY, it starts a worker that
logs so many rows under that key, and prints as JSON what took how long, or null where
the worker has died. It needs wandb alone.
"""

import json
import multiprocessing
import sys
import time

import wandb

import wandb_ddp_patch  # noqa: F401


def work(run, rows, key, sender):
    run.log({key: 0})  # attaches
    attached = time.time()
    for i in range(1, rows):
        run.log({key: i})
    sender.send((attached, time.time()))
    sender.close()


def measure(run, method, rows, key):
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(run, rows, key, sender))
    started = time.time()
    process.start()
    sender.close()
    try:
        attached, logged = receiver.recv()
    except EOFError:
        attached = logged = None
    process.join()
    ended = time.time()
    if attached is None:
        return None
    return {
        "whole": ended - started,
        "start": attached - started,
        "logging": logged - attached,
        "end": ended - logged,
    }


def main():
    run = wandb.init(mode="offline", project="benchmark", config={"lr": 0.1})
    print("ready", flush=True)
    for line in sys.stdin:
        method, rows, key = line.split()
        print(json.dumps(measure(run, method, int(rows), key)), flush=True)
    run.finish()


if __name__ == "__main__":
    main()
