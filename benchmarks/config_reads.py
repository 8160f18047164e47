"""What an attribute read of a config costs, upstream's against patched.

The two are measured in turns, in one process: first wandb's own class, then the
patched one, as often as --rounds says. Printed are the medians of the ratios of
neighbours; below 1.0 the patched class is faster.
"""

import argparse
import statistics
import timeit

import wandb

import wandb_ddp_patch

READS = {
    "config.lr": "config.lr",
    "missing name": "getattr(config, 'missing', None)",
    "hasattr": "hasattr(config, 'missing')",
    "dunder": "hasattr(config, '__missing__')",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--number", type=int, default=20_000, help="reads in a round")
    args = parser.parse_args()
    config = wandb.Config()
    vars(config)["_items"].update({f"key{n}": n for n in range(20)}, lr=0.1)

    def seconds(read):
        return timeit.timeit(read, number=args.number, globals={"config": config})

    ratios = {name: [] for name in READS}
    for _ in range(args.rounds):
        wandb_ddp_patch.revert()
        upstream = {name: seconds(read) for name, read in READS.items()}
        wandb_ddp_patch.apply()
        for name, read in READS.items():
            ratios[name].append(seconds(read) / upstream[name])
    print(f"wandb {wandb.__version__}: patched / upstream, median of {args.rounds} pairs")
    for name, pairs in ratios.items():
        print(f"{name:14} {statistics.median(pairs):.2f}   ({min(pairs):.2f} to {max(pairs):.2f})")


if __name__ == "__main__":
    main()
