"""What is carried to workers in test_carriers.py, and what a worker does with it.

A parcel is a dict: the things, by what they are, and the folder in which a worker notes
which of them it has used. So nothing has to come back the way that the parcel went.
"""

import os

import torch
import wandb

CONFIG = {"lr": 0.1, "layers": [1, 2]}
WHAT = ["config", "run", "summary", "watched model", "media"]
ROWS = 5


class Different(Exception):
    """What arrives is not what was sent."""


def check(same, otherwise):
    if not same:
        raise Different(otherwise)


def small_model():
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))


def make(what, run):
    """Make what is carried, in the process that owns the run."""
    if what == "summary":
        run.summary["x"] = 7
        return run.summary
    if what == "watched model":
        model = small_model()
        run.watch(model, log="all", log_freq=1)
        return model
    if what == "media":
        table = wandb.Table(columns=["a", "b"], data=[[1, "one"], [2, "two"]])
        image = wandb.Image(torch.zeros(3, 4, 4), caption="black")
        run.log({"table": table, "image": image})
        return run, table, image
    return {"config": run.config, "run": run}[what]


def look_at_config(config):
    seen = {key: value for key, value in dict(config).items() if not key.startswith("_")}
    check(seen == CONFIG, f"config is {seen}")
    check(config.lr == CONFIG["lr"] and not hasattr(config, "nothing"), "odd attributes")


def log_to_run(run):
    for i in range(ROWS):
        run.log({f"run {os.getpid()}": i})
    check(dict(run.config).get("lr") == CONFIG["lr"], "run.config is empty")


def look_at_summary(summary):
    check(summary["x"] == 7 and not hasattr(summary, "nothing"), "odd summary")


def train_model(model):
    model(torch.ones(1, 2)).sum().backward()


def log_media(media):
    run, table, image = media
    check(table.data == [[1, "one"], [2, "two"]] and image.format == "png", "odd media")
    for i in range(ROWS):
        run.log({f"media {os.getpid()}": i, "image again": image})


USES = dict(zip(WHAT, [look_at_config, log_to_run, look_at_summary, train_model, log_media]))


def use(parcel):
    """Use what has arrived, in a worker."""
    check(os.getpid() != parcel["owner"], "this is the owner")
    for what, thing in parcel["things"].items():
        USES[what](thing)
        done = os.path.join(parcel["folder"], f"{what} {os.getpid()}")
        with open(done, "w", encoding="utf-8"):
            pass


def still_works(what, thing, run):
    """Use it once more, in the owner: it has stayed what it was."""
    if what == "watched model":
        thing(torch.ones(1, 2)).sum().backward()
    run.log({"owner": 1})
