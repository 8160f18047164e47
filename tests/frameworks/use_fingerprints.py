"""The fingerprints of a run's config that libraries take to know it again."""

import importlib
import sys

importlib.import_module(sys.argv[1])

import dask  # noqa: E402
import joblib  # noqa: E402
import wandb  # noqa: E402
from dask.base import tokenize  # noqa: E402
from datasets.fingerprint import Hasher  # noqa: E402

import wandb_ddp_patch  # noqa: E402, F401

ITEMS = {"lr": 0.1, "layers": [1, 2], "nested": {"b": {"x": 1, "y": 2}, "a": 1, "c": "one two"}}

if __name__ == "__main__":
    dask.config.set({"tokenize.ensure-deterministic": True})
    with wandb.init(project="p", config=ITEMS) as run:
        print("token of dask", tokenize(run.config))
        print("token of joblib", joblib.hash(run.config))
        print("token of datasets", Hasher.hash(run.config))
