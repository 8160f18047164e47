"""Make Weights & Biases objects survive multi-process training.

Importing this package is applying it: ``wandb.config``, the run, the summary
and everything that holds them can then be handed to worker processes, copied
and pickled. It began with https://github.com/wandb/wandb/issues/2007.

Environment variable ``WANDB_DDP_PATCH=0`` turns it off.

This module may run at the start of every interpreter. It therefore imports
nothing that a bare interpreter has not loaded already; all else is imported
once wandb is.
"""

import os
import sys

from . import _hooks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

    from ._graft import Status

__all__ = ["__version__", "apply", "revert", "status"]
__version__ = "0.1.0"


def _enabled() -> bool:
    return os.environ.get("WANDB_DDP_PATCH") != "0"


def _on_import(name: str) -> None:
    # A function of its own, and imported late, because _graft needs modules
    # that only wandb brings into the process.
    if "wandb" in sys.modules:
        from . import _graft

        _graft.apply(after=name)


def apply() -> None:
    """Patch wandb: now if it is loaded, else right after it is imported.

    Importing the package has called this already. Calling it again, from any
    thread, changes nothing; it is the way back after :func:`revert`. Does
    nothing while the environment has ``WANDB_DDP_PATCH=0``.
    """
    if not _enabled():
        return
    _hooks.install(_on_import)
    if "wandb" in sys.modules or __name__ + "._graft" in sys.modules:
        from . import _graft

        _graft.apply()


def revert() -> None:
    """Take every patch off: wandb's classes and names are as they were found.

    Objects unpickled before keep working as far as wandb alone supports them.
    """
    _hooks.uninstall()
    graft = sys.modules.get(__name__ + "._graft")
    if graft is not None:
        graft.revert()


def status() -> "List[Status]":
    """Say what is patched and why: one :class:`Status` for each graft."""
    from . import _graft

    return _graft.status(enabled=_enabled())


apply()
