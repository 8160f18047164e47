"""Where the time goes until a worker has logged its first row.

A worker notes the time when the script begins in it, after the imports of torch and
wandb, when its function is called and when its first run.log() has returned. The parts
are the differences, from the moment at which the parent began to start it:

    process      a new interpreter, or the fork of one, up to the script's first line
    torch, wandb their imports; a fork of a process that has them has no such part
    loading      the rest of the script, and unpickling the function and the run
    attach       the first use of the run

One worker at a time, started by torch.multiprocessing.spawn and by spawn(), warm, in
turns; medians of each part. The clock is time.time(), the same in all processes.
"""

import os
import time

STAMPS = {}


def stamp(name):
    STAMPS[name] = time.time()


stamp("process")
if hasattr(os, "register_at_fork"):
    # A fork has no first line. This comes before what wandb and the shim do there.
    os.register_at_fork(after_in_child=lambda: stamp("process"))

import torch.multiprocessing as mp  # noqa: E402

stamp("torch")

import wandb  # noqa: E402, F401

stamp("wandb")

import json  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import harness  # noqa: E402

import wandb_ddp_patch  # noqa: E402

PARTS = ("process", "torch", "wandb", "loading", "attach")


def work(rank, run, path):
    stamp("loading")
    run.log({"row": 1})
    stamp("attach")
    Path(path).write_text(json.dumps(STAMPS), "utf-8")


def parts(start, run, path):
    """Start one worker and divide its time."""
    last = time.time()
    start(work, args=(run, str(path)), nprocs=1)
    stamps = json.loads(path.read_text("utf-8"))
    took = {}
    for part in PARTS:
        # What a fork has inherited was done before it began.
        took[part] = max(0, stamps[part] - last)
        last = max(last, stamps[part])
    return took


def main():
    args = harness.parser(__doc__, 7).parse_args()
    rounds = args.rounds or (1 if args.quick else 7)
    starts = {"torch.multiprocessing.spawn": mp.spawn, "spawn(), warm": wandb_ddp_patch.spawn}
    took = {name: [] for name in starts}
    with tempfile.TemporaryDirectory() as folder, harness.offline_run(lr=0.1) as run:
        path = Path(folder, "stamps")
        parts(wandb_ddp_patch.spawn, run, path)  # warms it

        def arm(name):
            took[name].append(parts(starts[name], run, path))
            return sum(took[name][-1].values())

        arms = {name: (lambda name=name: arm(name)) for name in starts}
        harness.interleave(arms, rounds, 0, "worker start")
    medians = {
        name: {part: statistics.median(one[part] for one in all_) for part in PARTS}
        for name, all_ in took.items()
    }
    rows = [
        (name, *(harness.seconds(median[part]) if median[part] else "" for part in PARTS))
        for name, median in medians.items()
    ]
    print(harness.table(("one worker, started by", *PARTS), rows))
    harness.save("worker_start", {"rounds": rounds, "parts_s": medians}, args.quick)


if __name__ == "__main__":
    main()
