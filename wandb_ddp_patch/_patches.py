"""Which grafts there are; putting all of them on, and taking them off.

How one is put on, and when it is not, is in _graft.py.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import warnings
from typing import Optional, Tuple

from . import _hooks
from ._graft import Graft
from .grafts import config, disabled, media, module, preinit, run, summary, torch, watch, yaml

# Held while grafts are put on or off. Nothing is imported under it that is not
# loaded already, so no import lock is ever waited for.
_lock = threading.RLock()
_warned: set[str] = set()


_PARTS = (config, summary, preinit, module, disabled, run, media, torch, watch, yaml)
# Every graft there is, in the order in which they are put on.
GRAFTS: Tuple[Graft, ...] = tuple(graft for part in _PARTS for graft in part.GRAFTS)


def apply(after: Optional[str] = None) -> None:
    """Put on every graft whose modules have been imported.

    Args:
        after: The module that has just been imported: grafts that work, and do
            not depend on it, need not be tried again.
    """
    wandb_loaded = after == "wandb" or _executed("wandb")
    missing = set()
    if wandb_loaded:
        needed = {name for graft in GRAFTS for name in graft.modules} - {"torch", "yaml"}
        missing = {name for name in needed if name not in sys.modules and not _exists(name)}
    with _lock:
        for graft in GRAFTS:
            settled = graft.state in ("applied", "not needed")
            if settled and after and after not in graft.modules:
                continue
            if all(name == after or _executed(name) for name in graft.modules):
                graft.put_on()
            elif graft.state == "off":
                graft.state = "waiting for import"
            if not missing.isdisjoint(graft.modules):
                graft.state = "not needed" if graft.optional else "skipped"
                graft.reason = f"{graft.target} is not there: no such module"
        skipped = [
            graft.reason
            for graft in GRAFTS
            if graft.state == "skipped" and graft.reason not in _warned
        ]
        if wandb_loaded:
            _warned.update(skipped)
    if wandb_loaded and skipped:
        _warn("wandb runs without these patches, which do not fit it: " + "; ".join(skipped))


def revert() -> None:
    """Take every graft off, the last one first."""
    with _lock:
        for graft in reversed(GRAFTS):
            graft.take_off()


def _executed(name: str) -> bool:
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    # A lazy or reloaded module is not marked as being initialised.
    executing = getattr(spec, "_initializing", False) or name in _hooks.executing
    return module is not None and not executing


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:
        return False


def _warn(message: str) -> None:
    try:
        warnings.warn(f"wandb_ddp_patch: {message}", RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        # The user turned warnings into errors; an import must not fail for ours.
        if sys.stderr is not None:
            sys.stderr.write(f"wandb_ddp_patch: {message}\n")
