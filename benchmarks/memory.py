"""How much memory a worker needs for itself, once it has logged a row.

Linux counts, for each process, which of its memory is private: what only that process
has (Private_Clean and Private_Dirty of /proc/self/smaps_rollup;
https://docs.kernel.org/filesystems/proc.html). So much more each worker takes. A fork
shares the rest with the process that it was forked from, until one of the two writes.
Pss, in which each shared page counts as a part, and what is shared stand beside it.

One worker at a time, started by torch.multiprocessing.spawn, as a plain fork of this
process and by spawn(), warm, in turns. It reads that after its first run.log(), to an
offline run, has returned; and again after a full garbage collection, which writes to each
object that Python tracks: so much may become private later.
"""

import functools
import gc
import json
import statistics
import tempfile
from pathlib import Path

import harness
import torch.multiprocessing as mp
import wandb  # noqa: F401

import wandb_ddp_patch

ROLLUP = Path("/proc/self/smaps_rollup")
SPAWN, FORK = "torch.multiprocessing.spawn", "start_processes, fork"
WARM = "spawn(), warm"
AT_MOST = 0.1
PARTS = {
    "private": ("Private_Clean", "Private_Dirty"),
    "shared": ("Shared_Clean", "Shared_Dirty"),
    "pss": ("Pss",),
}


def memory():
    """Read this process's memory, in bytes, by its parts."""
    fields = {}
    for line in ROLLUP.read_text("ascii").splitlines()[1:]:
        name, kibibytes = line.split()[:2]
        fields[name.rstrip(":")] = int(kibibytes) * 1024
    return {part: sum(fields[name] for name in names) for part, names in PARTS.items()}


def work(rank, run, path):
    run.log({"row": 1})
    logged = memory()
    gc.collect()
    Path(path).write_text(json.dumps({"logged": logged, "collected": memory()}), "utf-8")


def measured(starts, rounds):
    """Start workers; give what each had, by how it was started."""
    had = {name: [] for name in starts}
    with tempfile.TemporaryDirectory() as folder, harness.offline_run(lr=0.1) as run:
        path = Path(folder, "memory")

        def arm(name):
            starts[name](work, args=(run, str(path)), nprocs=1)
            had[name].append(json.loads(path.read_text("utf-8")))

        arms = {name: (lambda name=name: arm(name)) for name in starts}
        harness.interleave(arms, rounds, 1, "memory")  # not counted: it warms spawn()
    return {name: all_[1:] for name, all_ in had.items()}


def summary(had, when):
    """Give each arm's medians at that moment, and the ratio of what is private."""
    private = {name: [one[when]["private"] for one in all_] for name, all_ in had.items()}
    arms = {}
    for name, all_ in had.items():
        medians = {part: statistics.median(one[when][part] for one in all_) for part in PARTS}
        pairs = harness.ratios(private[name], private[SPAWN])
        arms[name] = {
            "median_bytes": medians,
            "of " + SPAWN: statistics.median(pairs),
            f"of {SPAWN}, 95 %": harness.interval(pairs),
        }
    return arms


def private(arms, name):
    return harness.megabytes(arms[name]["median_bytes"]["private"])


def goal(what, arms):
    return harness.goal(
        what,
        arms[WARM]["of " + SPAWN],
        AT_MOST,
        private(arms, WARM),
        f"{private(arms, SPAWN)}, {SPAWN}",
        arms[WARM][f"of {SPAWN}, 95 %"],
    )


def main():
    args = harness.parser(__doc__, 7).parse_args()
    rounds = args.rounds or (1 if args.quick else 7)
    if not ROLLUP.exists():
        why = f"skipped: this system has no {ROLLUP}, which says what memory is private"
        print(why)
        harness.save("memory", {"no plot": why}, args.quick)
        return
    fork = functools.partial(mp.start_processes, start_method="fork")
    had = measured({SPAWN: mp.spawn, FORK: fork, WARM: wandb_ddp_patch.spawn}, rounds)
    moments = {when: summary(had, when) for when in ("logged", "collected")}
    rows = [
        (name, when, *(harness.megabytes(value) for value in arm["median_bytes"].values()))
        for when, arms in moments.items()
        for name, arm in arms.items()
    ]
    print(harness.table(("one worker, started by", "when it has", *PARTS), rows))
    goals = [
        goal("private memory of a worker after its first row: spawn(), warm", moments["logged"])
    ]
    harness.save("memory", {"rounds": rounds, "moments": moments, "goals": goals}, args.quick)


if __name__ == "__main__":
    main()
