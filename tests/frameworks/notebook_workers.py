"""What the cells of test_notebooks.py's notebooks hand to workers: functions of a module."""

import wandb


def spawned(rank):
    wandb.log({f"spawned {rank}": wandb.config["lr"]})


def launched(config, run):
    """Run by Accelerate's notebook_launcher in each worker."""
    from accelerate import PartialState

    rank = PartialState(cpu=True).process_index
    run.log({f"launched {rank}": config["lr"]})
