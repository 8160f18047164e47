"""Configs: pickled, copied, saved, and sent to workers."""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import pickle
import tempfile
from typing import Any, Dict, List

from ..multiprocess import in_worker, really_started, start_methods
from ..offline_run import API_KEY, ITEMS, config_items, offline_run
from ..registry import CannotRun, check, probe


@probe(
    2007,
    fails=r"RecursionError|KeyError: '__|Settings\._validator_factory|attach in the same process",
)
def config_pickle() -> None:
    """A pickled config is unchanged when it is loaded, with every protocol."""
    with offline_run() as run:
        run.config.update_locked({"swept": 1}, user="sweep")
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            copied = pickle.loads(pickle.dumps(run.config, protocol))
            check(type(copied) is type(run.config), "another type came back")
            check(_own_items(copied) == _own_items(run.config), "its items, or their order, differ")
            for name in ("_locked", "_users", "_users_inv", "_users_cnt"):
                check(vars(copied)[name] == vars(run.config)[name], f"{name} differs")


def _own_items(config: Any) -> List[Any]:
    # Without wandb's telemetry, which may be left out: it differs from process to process.
    return [item for item in vars(config)["_items"].items() if item[0] != "_wandb"]


@probe(833, fails="RecursionError|KeyError: '__")
def config_copy() -> None:
    """copy() and deepcopy() of a config return an independent config."""
    with offline_run() as run:
        for copied in (copy.copy(run.config), copy.deepcopy(run.config)):
            check(config_items(copied) == ITEMS, "the copy differs")
            copied.update({"lr": 0.2, "new": 1}, allow_val_change=True)
            check(config_items(copied)["new"] == 1, "the copy can't be changed")
            check(config_items(run.config) == ITEMS, "changing the copy changed the run")
        copy.deepcopy(run.config)["nested"]["depth"] = 2
        check(run.config["nested"]["depth"] == 1, "a deep copy shares nested values")


@probe(
    2007, 3748, 5062, fails=r"RecursionError|KeyError: '__|Settings\._validator_factory", waits=True
)
def config_spawn() -> None:
    """wandb.config arrives in a spawned worker in a namespace of arguments."""
    import wandb

    with offline_run(), really_started():
        args = argparse.Namespace(config=wandb.config)
        for method in start_methods():
            got = in_worker(_read_config, args, method=method)
            check(got == ITEMS, f"{method}: got {got}")


def _read_config(args: argparse.Namespace) -> Dict[str, Any]:
    check(args.config.lr == args.config["lr"], "attribute and item differ")
    return config_items(args.config)


@probe(fails="pickle holds (the API key|settings)")
def config_secret() -> None:
    """No pickle of a config, run or summary contains the API key or the settings."""
    import wandb

    with offline_run() as run:
        run.log({"x": 1})
        for name, thing in (("config", wandb.config), ("run", run), ("summary", run.summary)):
            # From the last: up to 0.12, wandb alone can't pickle by the first ones.
            for protocol in reversed(range(pickle.HIGHEST_PROTOCOL + 1)):
                data = pickle.dumps(thing, protocol)
                check(API_KEY.encode() not in data, f"the {name}'s pickle holds the API key")
                check(b"settings" not in data.lower(), f"the {name}'s pickle holds settings")


@probe(2007, fails="KeyError: 'missing'|it has ")
def config_names() -> None:
    """hasattr() works on a config, even for dunder names."""
    with offline_run() as run:
        check(hasattr(run.config, "lr") and run.config.lr == 0.1, "lr is not an attribute")
        for name in ("missing", "__getstate__missing__", "__deepcopy_missing__", "__array__"):
            check(not hasattr(run.config, name), f"it has {name}")


@probe(fails="RecursionError")
def config_blank() -> None:
    """hasattr() works on a config whose __init__ has not run, as pickle creates it."""
    wandb: Any = importlib.import_module("wandb")
    blank = wandb.Config.__new__(wandb.Config)
    check(not hasattr(blank, "missing"), "it has an attribute")
    check(not hasattr(blank, "_items"), "it has _items")


@probe(
    5062,
    fails=r"Weights only load failed|RecursionError|KeyError: '__|Settings\._validator_factory",
)
def config_checkpoint() -> None:
    """torch saves and loads a checkpoint with a config, with its default arguments."""
    try:
        import torch
    except ImportError:
        raise CannotRun("torch is not installed") from None
    with offline_run() as run, tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "checkpoint.pt")
        torch.save({"config": run.config, "weights": torch.zeros(2)}, path)
        check(config_items(torch.load(path)["config"]) == ITEMS, "the config differs")
        loaded = torch.load(path, weights_only=False)
        check(config_items(loaded["config"]) == ITEMS, "the config differs")


@probe(fails="RecursionError|KeyError: '__")
def config_disabled() -> None:
    """The config of a disabled run can be copied, pickled and sent to a worker."""
    with offline_run("disabled") as run:
        for copied in (pickle.loads(pickle.dumps(run.config)), copy.deepcopy(run.config)):
            check(config_items(copied) == ITEMS, "the copy differs")
        got = in_worker(_read_config, argparse.Namespace(config=run.config))
        check(got == ITEMS, f"got {got}")
