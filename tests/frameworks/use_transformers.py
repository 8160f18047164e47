"""A script: what people do with transformers' Trainer and wandb. Usage: ... USE."""

import copy
import os
import pickle
import sys

import torch
import transformers
import wandb
from carriers_training import free_port, tiny_bert

import wandb_ddp_patch  # noqa: F401

STEPS = 3
# With WANDB_WATCH, gradients are logged at each hundredth step.
WATCHED_STEPS = 100


class Texts(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"input_ids": [1, 2], "labels": index % 2}


def trainer(report_to="wandb", callbacks=None, model=None, steps=STEPS):
    arguments = transformers.TrainingArguments(
        "out",
        report_to=report_to,
        max_steps=steps,
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    model = model or tiny_bert()
    return transformers.Trainer(model, arguments, train_dataset=Texts(), callbacks=callbacks)


def train():
    trainer().train()
    wandb.log({"owner": 1})
    wandb.finish()


def copy_callback():
    """WandbCallback holds the module wandb; a callback is copied, and sent to workers."""
    trained = trainer()
    trained.train()
    callback = trained.callback_handler.pop_callback(transformers.integrations.WandbCallback)
    assert copy.deepcopy(callback)._wandb is wandb
    assert pickle.loads(pickle.dumps(callback))._wandb is wandb
    wandb.log({"owner": 1})
    wandb.finish()


def save_watched():
    """WANDB_WATCH=all: the model is saved whole, and loaded."""
    trained = trainer()
    trained.train()
    torch.save(trained.model, "model.pt")
    model = torch.load("model.pt", weights_only=False)
    model(input_ids=torch.tensor([[1, 2]]), labels=torch.tensor([0])).loss.backward()
    wandb.log({"owner": 1})
    wandb.finish()


def in_worker(rank, callback, run):
    run.log({f"rank {rank}": 1})  # from now on it is wandb.run, to which WandbCallback logs
    if rank == 0:
        trainer("none", [callback]).train()


def callback_in_workers(method):
    """A WandbCallback goes to torch's workers, with the parent's run."""
    run = wandb.init(project="p")
    torch.multiprocessing.start_processes(
        in_worker,
        args=(transformers.integrations.WandbCallback(), run),
        nprocs=2,
        start_method=method,
    )
    run.log({"owner": 1})
    run.finish()


def with_watched(rank, model, run):
    run.log({f"rank {rank}": 1})
    if rank == 0:
        trainer(model=model, steps=WATCHED_STEPS).train()


def watched_in_workers(method):
    """WANDB_WATCH=all: the model is trained, then goes to workers, and one trains it on."""
    trained = trainer()
    trained.train()
    torch.multiprocessing.start_processes(
        with_watched, args=(trained.model, wandb.run), nprocs=2, start_method=method
    )
    wandb.log({"owner": 1})
    wandb.finish()


def in_rank(run):
    trainer(steps=WATCHED_STEPS).train()
    run.log({f"rank {os.environ['RANK']}": 1})


def watched_in_ranks():
    """WANDB_WATCH=all: Trainers train together in the ranks of notebook_launcher."""
    from accelerate import notebook_launcher

    os.environ["ACCELERATE_USE_CPU"] = "true"
    run = wandb.init(project="p")
    notebook_launcher(in_rank, (run,), num_processes=2, use_port=free_port())
    run.log({"owner": 1})
    run.finish()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
