"""A script: what people do with transformers' Trainer and wandb. Usage: ... USE."""

import copy
import pickle
import sys

import torch
import transformers
import wandb
from carriers_training import tiny_bert

import wandb_ddp_patch  # noqa: F401

STEPS = 3


class Texts(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"input_ids": [1, 2], "labels": index % 2}


def trainer(report_to="wandb", callbacks=None):
    arguments = transformers.TrainingArguments(
        "out",
        report_to=report_to,
        max_steps=STEPS,
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    return transformers.Trainer(tiny_bert(), arguments, train_dataset=Texts(), callbacks=callbacks)


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


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
