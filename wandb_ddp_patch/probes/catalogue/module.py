"""Objects that hold the module wandb, as integrations do."""

from __future__ import annotations

import argparse
import copy
import importlib
import pickle
import types
from typing import Any

from ..multiprocess import in_worker, start_methods
from ..registry import check, probe


@probe(fails="pickle '?module'? object")
def module_held() -> None:
    """An object that holds the module wandb can be copied, pickled and sent to a worker."""
    wandb: Any = importlib.import_module("wandb")
    held = argparse.Namespace(_wandb=wandb, log=None)
    for copied in (
        *(pickle.loads(pickle.dumps(held, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)),
        copy.copy(held),
        copy.deepcopy(held),
    ):
        check(copied._wandb is wandb, "another thing than the module came back")
    check(isinstance(wandb, types.ModuleType), "it is no module any more")
    for method in start_methods():
        got = in_worker(_version_of, held, method=method)
        check(got == wandb.__version__, f"{method}: got {got}")


def _version_of(held: argparse.Namespace) -> Any:
    return held._wandb.__version__
