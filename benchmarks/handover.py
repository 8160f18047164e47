"""What it costs to hand wandb.config to a spawned worker, beside a dict.

torch.multiprocessing.spawn starts a worker that gets args.config, as in the report
(https://github.com/wandb/wandb/issues/2007), reads one value of it and ends: a plain
dict, dict(wandb.config), which is the workaround that people use, or wandb.config
itself, patched. 20 keys in each. The worker imports torch and wandb.

Whole times, from the call of spawn() to its return, in turns. They vary by more than
what is looked for. So pickling and loading args.config is timed by itself, too, in the
same processes, and what the config takes more of them than the dict of its round is put
in proportion to the whole: "by its parts".
"""

import argparse
import json
import pickle
import statistics
import tempfile
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import harness
import torch.multiprocessing as mp
import wandb

import wandb_ddp_patch  # noqa: F401

DICT = "a dict"
WORKAROUND = "dict(wandb.config)"
OURS = "wandb.config, with the patch"
ITEMS = {"lr": 0.1, **{f"key{n}": n / 7 if n % 2 else f"value {n}" for n in range(19)}}

# Of the last config: seconds, in the process that has done it.
_pickled = _loaded = 0.0


class Timed:
    """Stands for a config while it is handed over."""

    def __init__(self, config):
        self.config = config

    def __reduce__(self):
        global _pickled
        begun = time.perf_counter()
        payload = bytes(ForkingPickler.dumps(self.config))
        _pickled = time.perf_counter() - begun
        return load, (payload,)


def load(payload):
    global _loaded
    begun = time.perf_counter()
    config = pickle.loads(payload)
    _loaded = time.perf_counter() - begun
    return config


def work(rank, args, path):
    if args.config["lr"] != 0.1:
        raise AssertionError("not what was handed over")
    path.write_text(json.dumps(_loaded), "utf-8")


def main():
    args = harness.parser(__doc__, 11).parse_args()
    rounds = args.rounds or (1 if args.quick else 11)
    parts = {}
    with tempfile.TemporaryDirectory() as folder, harness.offline_run(**ITEMS):
        path = Path(folder, "loaded")

        def spawn(name, config):
            mp.spawn(work, args=(argparse.Namespace(config=Timed(config)), path))
            parts.setdefault(name, []).append(_pickled + json.loads(path.read_text("utf-8")))

        arms = {
            DICT: lambda: spawn(DICT, dict(ITEMS)),
            WORKAROUND: lambda: spawn(WORKAROUND, dict(wandb.config)),
            OURS: lambda: spawn(OURS, wandb.config),
        }
        warm_up = 0 if args.quick else 1
        times = harness.interleave(arms, rounds, warm_up, "handover")
    parts = {name: took[warm_up:] for name, took in parts.items()}
    summary = harness.summary(times, DICT)
    by_parts = {}
    for name, took in times.items():
        more = [own - base for own, base in zip(parts[name], parts[DICT])]
        by_parts[name] = [whole / (whole - extra) for whole, extra in zip(took, more)]
        summary[name]["part_s"] = statistics.median(parts[name])
        summary[name]["by its parts"] = statistics.median(by_parts[name])
        summary[name]["by its parts, 95 %"] = harness.interval(by_parts[name])
    rows = [
        (
            name,
            harness.seconds(arm["median_s"]),
            f"{arm['of ' + DICT]:.3f}{harness.within(arm[f'of {DICT}, 95 %'])}",
            harness.seconds(arm["part_s"]),
            f"{arm['by its parts']:.4f}",
        )
        for name, arm in summary.items()
    ]
    print(f"{rounds} rounds")
    header = "args.config is", "whole", "of a dict's", "pickling and loading it", "by its parts"
    print(harness.table(header, rows))
    what = "passing wandb.config to torch.multiprocessing.spawn"
    of_dict = summary[DICT]["median_s"]
    goals = [
        harness.goal_by_part(f"{what}: time added", by_parts[OURS], 1.02, of_dict, DICT),
        harness.goal(f"{what}: whole call", at_most=1.02, **harness.of(summary, OURS, DICT)),
    ]
    result = {"keys": len(ITEMS), "arms": summary, "goals": goals}
    harness.save("handover", result, args.quick)


if __name__ == "__main__":
    main()
