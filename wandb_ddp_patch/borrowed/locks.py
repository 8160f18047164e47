"""wandb's own locks, in a fork: none of them is held there.

A lock that another thread of the parent held at that moment would stay locked for ever,
and the worker would wait for it when it logs, prints or attaches.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Dict, Tuple

_KINDS = (type(threading.Lock()), type(threading.RLock()))

# The names of the locks of each module of wandb's, and how many modules there were.
_names: Dict[str, Tuple[str, ...]] = {}
_seen = 0


def find() -> None:
    """Find them, in what was imported since the last time."""
    global _seen
    if len(sys.modules) == _seen:
        return
    modules = list(sys.modules.items())
    _seen = len(modules)
    for name, module in modules:
        if name not in _names and (name == "wandb" or name.startswith("wandb.")):
            if getattr(getattr(module, "__spec__", None), "_initializing", False):
                _seen = 0  # it may make more of them: look again
            else:
                _names[name] = tuple(k for k, v in list(vars(module).items()) if _is_lock(v))


def _is_lock(value: Any) -> bool:
    return isinstance(value, _KINDS)


def after_fork_in_child() -> None:
    """Put new ones in their places: also for the thread that may hold one and goes on."""
    new: Dict[int, Any] = {}
    for name, names in _names.items():
        own = vars(sys.modules[name]) if name in sys.modules else {}
        for key in names:
            old = own.get(key)
            if _is_lock(old):
                make = threading.Lock if isinstance(old, _KINDS[0]) else threading.RLock
                own[key] = new.setdefault(id(old), make())
