"""Which patches there are; putting all of them on, and taking them off.

How one is put on, and when it is not, is in _patching.py.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from typing import Any, Dict, List, Optional, Set, Tuple

from . import _import_hook
from ._patching import IncompatibleError, Patch, Undo
from .patches import config, disabled, interface, media, module, preinit, run, setup, summary

# Held while patches are put on or off. Nothing is imported under it that is not
# loaded already, so no import lock is ever waited for.
_lock = threading.RLock()
_warned: Set[str] = set()

# In the order in which they are put on.
_PARTS = (config, summary, preinit, module, disabled, run, setup, interface, media)


# A wandb without any of these is none that we know: too old, or one that lies elsewhere.
_ESSENTIAL = {"wandb.sdk.wandb_config", "wandb.sdk.wandb_run", "wandb.sdk.wandb_summary"}


# The late parts amend what needs another package, which wandb itself does not import: they
# are not read before that is there. Written as imports, not as names: PyInstaller and the
# like put into a program what they see imported.
def _of_torch() -> Tuple[Any, ...]:
    from .patches import torch, watch

    return torch, watch


def _of_yaml() -> Tuple[Any, ...]:
    from .patches import yaml

    return (yaml,)


_LATE_PARTS = {"torch": _of_torch, "yaml": _of_yaml}
_late: Dict[str, Tuple[Patch, ...]] = {}


def patches() -> Tuple[Patch, ...]:
    """Give every patch there is, each with its state."""
    known = _known(everything=True)
    missing = _missing(known) if _executed("wandb") else set()
    with _lock:
        _note(missing, known)
    return known


def _known(everything: bool = False) -> Tuple[Patch, ...]:
    for package, parts in _LATE_PARTS.items():
        if package not in _late and (everything or package in sys.modules):
            try:
                _late[package] = tuple(patch for part in parts() for patch in part.PATCHES)
            except ImportError as error:  # of this package, only a part is left
                _late[package] = (_lost(package, error),)
    first = (patch for part in _PARTS for patch in part.PATCHES)
    return (*first, *(patch for package in _LATE_PARTS for patch in _late.get(package, ())))


def _lost(package: str, error: ImportError) -> Patch:
    """Make what stands for patches whose module is not there: it does not fit."""

    def install(undo: List[Undo]) -> None:
        raise IncompatibleError(str(error))

    lost = Patch(
        modules=(package,),
        name="what is done for it",
        install=install,
        is_fixed=lambda: False,
        why="",
        since="",
    )
    lost.apply()
    return lost


def apply(after: Optional[str] = None) -> None:
    """Put on every patch whose modules have been imported.

    Args:
        after: The module that has just been imported: patches that work, and do
            not depend on it, need not be tried again.
    """
    known = _known()
    wandb_loaded = after == "wandb" or _executed("wandb")
    missing = _missing(known) if wandb_loaded else set()
    with _lock:
        for patch in known:
            settled = patch.state in ("applied", "not needed")
            if settled and after and after not in patch.modules:
                continue
            if all(name == after or _executed(name) for name in patch.modules):
                patch.apply()
            elif patch.state == "off":
                patch.state = "waiting for import"
        _note(missing, known)
        skipped = [
            patch.reason
            for patch in known
            if patch.state == "skipped" and patch.reason not in _warned
        ]
        if wandb_loaded:
            _warned.update(skipped)
    if wandb_loaded and skipped:
        from . import _lifecycle  # late: importing wandb must stay quick

        if missing >= _ESSENTIAL:
            _lifecycle.warn(f"patches wandb 0.10.23 and later, and not this one: {_version()}")
        else:
            why = "; ".join(skipped)
            _lifecycle.warn(f"wandb runs without these patches, which do not fit it: {why}")


def _version() -> str:
    return str(getattr(sys.modules["wandb"], "__version__", "of unknown version"))


def _missing(known: Tuple[Patch, ...]) -> Set[str]:
    needed = {name for patch in known for name in patch.modules} - set(_LATE_PARTS)
    return {name for name in needed if name not in sys.modules and not _exists(name)}


def _note(missing: Set[str], known: Tuple[Patch, ...]) -> None:
    """Note which patches wait in vain."""
    for patch in known:
        if patch.state == "waiting for import" and not missing.isdisjoint(patch.modules):
            patch.state = "not needed" if patch.optional else "skipped"
            patch.reason = f"{patch.target} is not there: no such module"


def revert() -> None:
    """Take every patch off, the last one first."""
    known = _known(everything=True)
    with _lock:
        for patch in reversed(known):
            patch.revert()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may hold it


# Not by _lifecycle.py: to read that takes an eighth of what this package may add to importing
# wandb, and most processes that import it have no run.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _executed(name: str) -> bool:
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    # A lazy or reloaded module is not marked as being initialised.
    executing = getattr(spec, "_initializing", False) or name in _import_hook.executing
    return module is not None and not executing


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:
        return False
