"""An arm of unchanged.py: starts the reported script's workers, for each line that it reads.

It has imported and hands over what examples/train_ddp.py does; the workers end at once.
"""

import argparse
import sys
import time
from pathlib import Path

import harness
import wandb

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import train_ddp  # torch, scikit-learn, and wandb_ddp_patch

WORKERS = 4


def enter(rank, args):
    return args.config, train_ddp.train


if __name__ == "__main__":
    with harness.offline_run(lr=0.1) as run:
        args = argparse.Namespace(config=wandb.config, run=run, world_size=WORKERS)
        for _ in sys.stdin:
            begun = time.perf_counter()
            train_ddp.mp.spawn(enter, args=(args,), nprocs=WORKERS)
            print("seconds", time.perf_counter() - begun, flush=True)
