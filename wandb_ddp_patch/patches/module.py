"""The module wandb: no module can be pickled, nor what holds one (since 0.10.23).

``self._wandb = wandb`` in transformers' WandbCallback, for one, makes that an object that
can be neither copied nor sent to a worker.
"""

from __future__ import annotations

import copy
import importlib
import sys
from typing import List

from .._patching import Patch, Undo


class Wandb:
    """What the class of wandb, a plain module, should have had."""

    def __reduce__(self):
        # Its name only: the payload loads where this package is not installed.
        return importlib.import_module, ("wandb",)


def _install(undo: List[Undo]) -> None:
    # The class of this one module: copyreg knows a class only, and would change all modules.
    wandb = sys.modules["wandb"]
    before = type(wandb)
    members = {"__reduce__": Wandb.__reduce__, "__module__": before.__module__}
    ours = type(before.__name__, (before,), {"__doc__": before.__doc__, **members})

    def revert() -> None:
        if type(wandb) is ours:  # else somebody has set it after us: see set_attribute()
            wandb.__class__ = before

    wandb.__class__ = ours
    undo.append(revert)


def _is_fixed() -> bool:
    wandb = sys.modules["wandb"]
    return copy.copy(wandb) is wandb


PATCHES = [
    Patch(
        modules=("wandb",),
        name="__class__",
        install=_install,
        is_fixed=_is_fixed,
        why="an object that holds the module wandb can be copied, pickled and sent to a worker",
        since="0.10.23 or earlier",
    )
]
