"""Snapshots of a config's state, which other threads may be changing meanwhile.

dict.copy() is atomic; a loop in Python over a config's own dict would raise "dictionary
changed size during iteration" now and then.
"""

from __future__ import annotations

import gc
from typing import Any, Dict, Tuple

_NESTED = frozenset((dict, list))

# The item where wandb keeps its telemetry of the run: versions and libraries that it has seen,
# for one. It differs from process to process, so that equal configs would get different
# pickles. Only the run uses it, and a run's payload carries it (handover/payload.py).
TELEMETRY = "_wandb"

# Up to Python 3.13, the garbage collector does not track a dict that holds no containers. Then
# no value is looked at, which would take a third of the time of pickling. PyPy does not tell.
# https://docs.python.org/3/library/gc.html#gc.is_tracked
_may_hold_nested = getattr(gc, "is_tracked", bool)


def copy_locks(state: Dict[str, Any], own: Dict[str, Any]) -> None:
    """Copy a config's locked keys, and their users, into a state.

    Args:
        state: What is going to be pickled.
        own: The config's ``__dict__``.
    """
    # wandb writes down a user before the lock that names it. Copied in the other order, a
    # lock that another thread sets meanwhile would be without its user.
    for key in ("_locked", "_users", "_users_inv"):
        if key in own:
            state[key] = own[key].copy()
    if "_users_cnt" in own:
        state["_users_cnt"] = own["_users_cnt"]


def copy_items(state: Dict[str, Any], telemetry: bool = False) -> None:
    """Replace the items in a state by a copy, in which nested dicts and lists are copies.

    Args:
        state: What is going to be pickled; its ``_items`` are the config's own until then.
        telemetry: Whether wandb's telemetry stays among them.
    """
    if "_items" in state:
        own = state["_items"]
        items = state["_items"] = own.copy()
        if not telemetry:
            items.pop(TELEMETRY, None)
        if _may_hold_nested(items):
            _copy_nested(items, {id(own): (items, own)})


def _copy_nested(container: Any, memo: Dict[int, Tuple[Any, Any]]) -> None:
    """Replace nested dicts and lists by copies; shared and circular ones stay so.

    Args:
        container: A dict or list that is a copy already; it is changed.
        memo: By the id of each original, its copy and the original itself.
    """
    if _NESTED.isdisjoint(map(type, container.values() if type(container) is dict else container)):
        return
    for key, val in container.items() if type(container) is dict else enumerate(container):
        if type(val) in _NESTED:
            if id(val) not in memo:
                copied = val.copy()
                # The original is kept alive: another thread may drop it, and Python would
                # give its id to the next object, which would then get this one's copy.
                memo[id(val)] = copied, val
                if _may_hold_nested(copied):
                    _copy_nested(copied, memo)
            container[key] = memo[id(val)][0]
