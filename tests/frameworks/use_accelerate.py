"""A script: what people do with Accelerate's tracker. Usage: use_accelerate.py USE."""

import os
import sys

import accelerate
import carried
import torch
import wandb
from carriers_training import batches, free_port

import wandb_ddp_patch  # noqa: F401

os.environ["ACCELERATE_USE_CPU"] = "true"
STEPS = 4


def train(config, run=None):
    """The training function of a notebook, or of a script that debug_launcher tries."""
    accelerator = accelerate.Accelerator(cpu=True, log_with="wandb")
    accelerator.init_trackers("p", config=dict(config))
    model, data = accelerator.prepare(torch.nn.Linear(2, 1), batches(2 * 2 * STEPS))
    for inputs, targets in data:
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        accelerator.backward(loss)
        accelerator.log({"loss": loss.item()})
    if run is not None:
        run.log({f"rank {accelerator.process_index}": 1})
    accelerator.end_training()


def notebook_launcher():
    run = wandb.init(project="p", config=carried.CONFIG)
    arguments = (run.config, run)
    accelerate.notebook_launcher(train, arguments, num_processes=2, use_port=free_port())
    run.log({"owner": 1})
    run.finish()


def debug_launcher():
    run = wandb.init(project="p", config=carried.CONFIG)
    accelerate.debug_launcher(train, (run.config, run), num_processes=2)
    run.log({"owner": 1})
    run.finish()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
