"""wandb.run, wandb.config, wandb.log and the like: whose they are in this process."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def set_global_run(run: Any) -> None:
    """Make a run this process's global one, where there is none.

    Where wandb attaches a run, it does this itself.
    """
    wandb: Any = sys.modules["wandb"]
    preinit = sys.modules["wandb.sdk.lib.preinit"]
    stand_ins = [getattr(preinit, name) for name in ("PreInitObject", "PreInitCallable")]
    # In some releases the second is a function that makes one: no type to look for.
    kinds = tuple(kind for kind in stand_ins if isinstance(kind, type))
    for name, value in list(vars(wandb).items()):
        if isinstance(value, kinds) and hasattr(run, name):
            setattr(wandb, name, getattr(run, name))
    if wandb.run is None:
        wandb.run = run


def clear_global_run(run: Any) -> None:
    """Put wandb's stand-ins back, where a run is this process's global one."""
    if sys.modules["wandb"].run is run:
        importlib.import_module("wandb.sdk.lib.module").unset_globals()
