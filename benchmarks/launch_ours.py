"""The arms of launch.py that start workers by spawn(): a script that imports it by name."""

import argparse

import launch

from wandb_ddp_patch import spawn


def start(n):
    spawn(launch.nothing, nprocs=n)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=[launch.COLD, launch.WARM], required=True)
    launch.serve(start, parser.parse_args().serve)
