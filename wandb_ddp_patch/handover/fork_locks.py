"""wandb's own locks, in a fork: none of them is held there.

A lock that another thread of the parent held at that moment would stay locked for ever,
and the worker would wait for it when it logs, prints or attaches.
"""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any, Dict, Set, Tuple

_KINDS = (type(threading.Lock()), type(threading.RLock()))

# The names of the locks of each module of wandb's that has some: few have, and a fork goes
# through these alone. Which modules have been looked through, and how many there were.
_names: Dict[str, Tuple[str, ...]] = {}
_done: Set[str] = set()
_seen = 0


def find() -> None:
    """Find them, in what was imported since the last time."""
    global _seen
    if len(sys.modules) == _seen:
        return
    names = list(sys.modules)
    _seen = len(names)
    for name in names:
        if not name.startswith("wandb") or name in _done:
            continue
        # What is blocked from being imported is None there.
        module = sys.modules.get(name)
        if isinstance(module, ModuleType) and name.partition(".")[0] == "wandb":
            if getattr(getattr(module, "__spec__", None), "_initializing", False):
                _seen = 0  # it may make more of them: look again
                continue
            _done.add(name)
            locks = tuple(k for k, v in list(vars(module).items()) if _is_lock(v))
            if locks:
                _names[name] = locks


def _is_lock(value: Any) -> bool:
    return type(value) in _KINDS  # to ask for __class__ makes lazy modules import


def after_fork_in_child() -> None:
    """Put new ones in their places: also for the thread that may hold one and goes on."""
    new: Dict[int, Any] = {}
    for name, names in _names.items():
        module = sys.modules.get(name)
        own = vars(module) if isinstance(module, ModuleType) else {}
        for key in names:
            old = own.get(key)
            if _is_lock(old):
                make = threading.Lock if type(old) is _KINDS[0] else threading.RLock
                own[key] = new.setdefault(id(old), make())
