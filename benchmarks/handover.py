"""What it costs to hand wandb.config to spawned workers, beside a dict.

torch.multiprocessing.spawn starts workers that get args.config, as in the report
(https://github.com/wandb/wandb/issues/2007), read one value of it and end: a plain
dict, dict(wandb.config), which is the workaround that people use, or wandb.config
itself, patched. 20 keys in each. All workers import torch and wandb. Whole times, from
the call of spawn() to its return; the arms take turns.
"""

import argparse

import harness
import torch.multiprocessing as mp
import wandb

import wandb_ddp_patch  # noqa: F401

DICT = "dict"
OURS = "wandb.config, patched"
ITEMS = {"lr": 0.1, **{f"key{n}": n / 7 if n % 2 else f"value {n}" for n in range(19)}}


def work(rank, args):
    if args.config["lr"] != 0.1:
        raise AssertionError("not what was handed over")


def main():
    parser = harness.parser(__doc__, 15)
    parser.add_argument("--workers", type=int, help="default: 2, with --quick 1")
    args = parser.parse_args()
    rounds = args.rounds or (3 if args.quick else 15)
    workers = args.workers or (1 if args.quick else 2)

    def spawn(config):
        mp.spawn(work, args=(argparse.Namespace(config=config),), nprocs=workers)

    with harness.offline_run(**ITEMS):
        arms = {
            DICT: lambda: spawn(dict(ITEMS)),
            "dict(wandb.config)": lambda: spawn(dict(wandb.config)),
            OURS: lambda: spawn(wandb.config),
        }
        times = harness.interleave(arms, rounds, 0 if args.quick else 1, "handover")
    summary = harness.summary(times, DICT)
    rows = [
        (
            name,
            harness.seconds(arm["median_s"]),
            f"{arm['of ' + DICT]:.4f}",
            "{:.4f} to {:.4f}".format(*arm[f"of {DICT}, 95 %"]),
        )
        for name, arm in summary.items()
    ]
    print(f"{workers} workers, {rounds} rounds")
    print(harness.table(("args.config is", "median", "of dict", "95 %"), rows))
    goal = harness.goal(
        "wandb.config handed to torch.multiprocessing.spawn",
        summary[OURS]["of " + DICT],
        1.02,
        harness.seconds(summary[OURS]["median_s"]),
        f"{harness.seconds(summary[DICT]['median_s'])}, a dict",
    )
    result = {"workers": workers, "keys": len(ITEMS), "arms": summary, "goals": [goal]}
    harness.save("handover", result, args.quick)


if __name__ == "__main__":
    main()
