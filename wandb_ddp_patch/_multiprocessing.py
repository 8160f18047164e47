"""Python's multiprocessing, and the copies of it that other libraries ship.

``multiprocess`` (pathos, datasets) and ``billiard`` (Celery) have a process, a connection and
finalizers of their own: a worker of theirs runs none of the standard library's. They are found
among the loaded modules by what they have, so a fork of them is found, too.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any, List


def modules(name: str, *members: str) -> List[Any]:
    """Return the loaded modules of this name, one of each copy.

    Args:
        name: The module's name in its package, such as ``"util"``.
        members: What it must have: others have modules of that name, too.
    """
    found = []
    for key in list(sys.modules):
        package, _, last = key.rpartition(".")
        if last == name and f"{package}.process" in sys.modules:
            module = sys.modules.get(key)
            # By its type first: to ask a lazy module for anything imports it.
            if type(module) is ModuleType and all(hasattr(module, each) for each in members):
                found.append(module)
    return found


def is_worker() -> bool:
    """Return True if one of them has started this process."""
    return any(
        getattr(module.current_process(), "_parent_pid", None) not in (None, os.getpid())
        for module in modules("process", "BaseProcess", "current_process")
    )
