"""Where the time goes until a worker's first row is with the service.

A worker notes the time when the script begins in it, after the imports of torch and
wandb, when its function is called, when its first run.log() has returned, and when the
service has answered a question that was asked after it. The parts are the differences,
from the moment at which the parent began to start it:

    process       a new interpreter, or the fork of one, up to the script's first line
    torch, wandb  their imports; a fork of a process that has them has no such part
    loading       the rest of the script, and unpickling the function and the run; of a
                  fork, what is done in it before its function is called
    attach        the first use of the run: until its first row is sent
    acknowledged  until the service has read that row

One worker at a time, started by torch.multiprocessing.spawn, as a plain fork and by
spawn(), warm, of a script with the patch and of one without, in turns; medians of each
part, and of what follows the call of the function. The clock is time.time(), the same
in all processes.

With --against FOLDER, a checkout of another commit of this repository takes its turns,
too, with this same script; what came of that is kept in the result, with the commit.
"""

import os
import time

STAMPS = {}


def stamp(name):
    STAMPS[name] = time.time()


stamp("process")
if hasattr(os, "register_at_fork"):
    # A fork has no first line. This comes before what wandb and the patch do there.
    os.register_at_fork(after_in_child=lambda: stamp("process"))

import torch.multiprocessing as mp  # noqa: E402

stamp("torch")

import wandb  # noqa: E402, F401

stamp("wandb")

import contextlib  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import harness  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("process", "torch", "wandb", "loading", "attach", "acknowledged")
FIRST_ROW = ("attach", "acknowledged")
SPAWNED, FORKED, WARM = "torch.multiprocessing.spawn", "start_processes, fork", "spawn(), warm"
OURS, ALONE, AGAINST = "ours", "wandb alone", "against"


def work(rank, run, path):
    stamp("loading")
    run.log({"row": 1})
    stamp("attach")
    # It answers in the order in which it is asked.
    run._interface.deliver_get_summary().wait_or(timeout=60)
    stamp("acknowledged")
    Path(path).write_text(json.dumps(STAMPS), "utf-8")


def start(method, args):
    if method == SPAWNED:
        mp.spawn(work, args, nprocs=1)
    elif method == FORKED:
        mp.start_processes(work, args, nprocs=1, start_method="fork")
    else:
        import wandb_ddp_patch  # here: wandb alone has not imported it

        wandb_ddp_patch.spawn(work, args, nprocs=1)


def parts(method, run, path):
    """Start one worker and divide its time."""
    last = time.time()
    start(method, (run, str(path)))
    stamps = json.loads(path.read_text("utf-8"))
    took = {}
    for part in PARTS:
        # What a fork has inherited was done before it began.
        took[part] = max(0, stamps[part] - last)
        last = max(last, stamps[part])
    return took


def serve():
    """Start a worker for each line of input, which names a method."""
    with tempfile.TemporaryDirectory() as folder, harness.offline_run(lr=0.1) as run:
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(parts(line.strip(), run, Path(folder, "stamps"))), flush=True)


class Script(harness.Server):
    """This script in a process of its own, which starts workers.

    Args:
        package: The folder that holds the package.
        patched: Whether it is on.
    """

    def __init__(self, package, patched):
        env = {**os.environ, "PYTHONPATH": str(package), "WANDB_DDP_PATCH": str(int(patched))}
        super().__init__(harness.PYTHON, __file__, "--serve", env=env)


def measure(scripts, rounds):
    """Give the parts of each round, by method and script."""
    took = {
        (method, name): []
        for method in (SPAWNED, FORKED, WARM)
        for name in scripts
        if method != WARM or name != ALONE
    }

    def arm(method, name):
        took[method, name].append(scripts[name].ask(method))
        return sum(took[method, name][-1].values())

    arms = {key: (lambda key=key: arm(*key)) for key in took}
    harness.interleave(arms, rounds, 1, "worker start")
    return {key: all_[1:] for key, all_ in took.items()}  # the first one warms up


def first_row(all_):
    return [sum(one[part] for part in FIRST_ROW) for one in all_]


def goals(took):
    times = {name: first_row(took[SPAWNED, name]) for name in (OURS, ALONE)}
    compared = harness.of(harness.summary(times, ALONE), OURS, ALONE)
    found = [harness.goal(f"a worker's first row: {SPAWNED}", at_most=0.8, **compared)]
    row = statistics.median(first_row(took[WARM, OURS]))
    what = f"a worker's first row: {WARM}"
    found.append(harness.goal(what, 1000 * row, 20, ours=harness.seconds(row), unit="ms"))
    return found


def compared(took, folder):
    """Say how long it takes, of what another commit takes: first rows, and the whole."""
    git = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    note = {"commit": subprocess.run(git, capture_output=True, text=True).stdout.strip()}
    note["environment"] = harness.environment()
    for what, figure in (
        ("first row", first_row),
        ("whole", lambda all_: [sum(one.values()) for one in all_]),
    ):
        for method in (SPAWNED, FORKED, WARM):
            times = {name: figure(took[method, name]) for name in (OURS, AGAINST)}
            note[f"{what}, {method}"] = harness.summary(times, AGAINST)
    return note


def main():
    parser = harness.parser(__doc__, 7)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another commit's checkout")
    parser.add_argument("--serve", action="store_true", help="for this script itself")
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    rounds = args.rounds or (1 if args.quick else 7)
    with contextlib.ExitStack() as stack:
        scripts = {OURS: Script(ROOT, True), ALONE: Script(ROOT, False)}
        if args.against:
            scripts[AGAINST] = Script(args.against.resolve(), True)
        for script in scripts.values():
            stack.enter_context(script)
        took = measure(scripts, rounds)
    medians = {
        f"{method}, {ALONE}" if name == ALONE else method: {
            part: statistics.median(one[part] for one in all_) for part in PARTS
        }
        for (method, name), all_ in took.items()
        if name != AGAINST
    }
    rows = [
        (name, *(harness.seconds(median[part]) if median[part] else "" for part in PARTS))
        for name, median in medians.items()
    ]
    print(harness.table(("one worker, started by", *PARTS), rows))
    result = {"rounds": rounds, "parts_s": medians, "goals": goals(took)}
    last = harness.load("worker_start", args.quick) or {}
    result["against"] = compared(took, args.against) if args.against else last.get("against")
    harness.save("worker_start", result, args.quick)


if __name__ == "__main__":
    main()
