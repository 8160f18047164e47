"""What reading a config costs: wandb's own, the patched one, and peers.

Each round is a process of its own, as pyperf has it, because hash seeds and memory
differ between processes. pyperf itself would measure one arm after the other, so that
what else the machine does would be in the ratios: here all arms take turns in each
process, several times, and each read is timed in a loop of some milliseconds, by the
CPU time of the process. wandb's own Config is the same class with the patch taken off.
An arm's time in a process is its fastest; a ratio is the median of the processes'.

A dict has no attributes: for it, the three reads of attributes are
d["lr"], d.get("missing") and "missing" in d. Where a peer can't do a read, it has none.
"""

import argparse
import collections
import json
import random
import subprocess
import time
import timeit
import types

import harness
import wandb
from tqdm import tqdm

import wandb_ddp_patch

UPSTREAM, PATCHED = "wandb.config, upstream", "wandb.config, patched"
READS = {
    "config.lr": "config.lr",
    'config["lr"]': 'config["lr"]',
    "getattr, missing": "getattr(config, 'missing', None)",
    "hasattr, missing": "hasattr(config, 'missing')",
    "hasattr, dunder": "hasattr(config, '__missing_name__')",
}
OF_DICT = {
    "config.lr": 'config["lr"]',
    "getattr, missing": "config.get('missing')",
    "hasattr, missing": "'missing' in config",
    "hasattr, dunder": "'__missing_name__' in config",
}
LOOP_SECONDS = 0.004
ITEMS = {"lr": 0.1, **{f"key{n}": n for n in range(20)}}


def peers():
    yield "dict", dict(ITEMS)
    config = wandb.Config()
    vars(config)["_items"].update(ITEMS)
    yield "dict(wandb.config)", dict(config)
    yield "SimpleNamespace", types.SimpleNamespace(**ITEMS)
    try:
        from omegaconf import OmegaConf

        yield "OmegaConf", OmegaConf.create(ITEMS)
    except ImportError:
        pass
    try:
        from ml_collections import ConfigDict

        yield "ml_collections.ConfigDict", ConfigDict(ITEMS)
    except ImportError:
        pass
    try:
        from easydict import EasyDict

        yield "EasyDict", EasyDict(ITEMS)
    except ImportError:
        pass


def measure(turns):
    """Time all reads of all arms, in turns; for one process."""
    config = wandb.Config()
    vars(config)["_items"].update(ITEMS)
    arms = {UPSTREAM: config, PATCHED: config, **dict(peers())}
    fastest = collections.defaultdict(dict)
    numbers = {}
    for turn in range(-1, turns):
        order = list(arms)
        random.shuffle(order)
        for name in order:
            (wandb_ddp_patch.revert if name == UPSTREAM else wandb_ddp_patch.apply)()
            for read, statement in READS.items():
                if type(arms[name]) is dict:
                    statement = OF_DICT.get(read, statement)
                # A new timer each time: its code has not specialised on the other class.
                timer = timeit.Timer(
                    statement, timer=time.process_time, globals={"config": arms[name]}
                )
                try:
                    if turn < 0:
                        timer.timeit(100)
                        once = timer.timeit(200) / 200
                        numbers[name, read] = max(1, int(LOOP_SECONDS / once))
                        continue
                    number = numbers.get((name, read))
                    if number:
                        took = timer.timeit(number) / number
                        fastest[read][name] = min(took, fastest[read].get(name, took))
                except (AttributeError, KeyError, TypeError):
                    continue
    wandb_ddp_patch.apply()
    return fastest


def main():
    parser = harness.parser(__doc__, 11)
    parser.add_argument("--turns", type=int, default=7, help="in each process")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.turns)))
        return
    rounds = args.rounds or (2 if args.quick else 11)
    command = [harness.PYTHON, __file__, "--measure", "--turns", str(args.turns)]
    times = collections.defaultdict(lambda: collections.defaultdict(list))
    for _ in tqdm(range(rounds), desc="config reads", unit="process", leave=False):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for read, arms in json.loads(done.stdout.splitlines()[-1]).items():
            for name, took in arms.items():
                times[read][name].append(took)
    names = [UPSTREAM, PATCHED, *(name for name, _ in peers())]
    result = {
        read: harness.summary({n: times[read][n] for n in names if n in times[read]}, UPSTREAM)
        for read in READS
    }
    rows = [
        (
            name,
            *(
                f"{harness.seconds(arms[name]['median_s'])} ({arms[name]['of ' + UPSTREAM]:.2f})"
                if name in arms
                else ""
                for arms in (result[read] for read in READS)
            ),
        )
        for name in names
    ]
    print(f"median of {rounds} processes (of upstream's)")
    print(harness.table(("", *(f"`{read}`" for read in READS)), rows))
    goals = []
    for read in READS:
        arms = result[read]
        # To two digits: of a method that is not patched, the third is chance.
        value = round(arms[PATCHED]["of " + UPSTREAM], 2)
        goals.append(
            harness.goal(
                f"read of a patched config: {read}",
                value,
                1.0,
                harness.seconds(arms[PATCHED]["median_s"]),
                f"{harness.seconds(arms[UPSTREAM]['median_s'])}, upstream",
            )
        )
        if "missing" in read:
            goals[-1].update(goal="< 1", met=value < 1)
    harness.save("config_reads", {"rounds": rounds, "reads": result, "goals": goals}, args.quick)


if __name__ == "__main__":
    main()
