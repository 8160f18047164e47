"""What is pickled of a config is a copy: other threads may go on; dict.copy() is atomic."""

from __future__ import annotations

import gc
from typing import Any, Dict, Tuple

_NESTED = frozenset((dict, list))

# Where wandb keeps what it notes of the run: which versions and libraries it has seen, for
# one. It differs from process to process, where the config does not, and only the run uses
# it: a run's payload has it (handover/payload.py).
TELEMETRY = "_wandb"

# Up to Python 3.13, a dict that holds no containers says so: it is not tracked. Then no
# value is looked at, which takes a third of the time of pickling. PyPy has no such thing.
# https://docs.python.org/3/library/gc.html#gc.is_tracked
_may_hold_nested = getattr(gc, "is_tracked", bool)


def copy_locks(state: Dict[str, Any], own: Dict[str, Any]) -> None:
    # Users come after the locks: each lock then has its user.
    for key in ("_locked", "_users", "_users_inv"):
        if key in own:
            state[key] = own[key].copy()
    if "_users_cnt" in own:
        state["_users_cnt"] = own["_users_cnt"]


def copy_items(state: Dict[str, Any], telemetry: bool = False) -> None:
    if "_items" in state:
        own = state["_items"]
        items = state["_items"] = own.copy()
        if not telemetry:
            items.pop(TELEMETRY, None)
        if _may_hold_nested(items):
            _copy_nested(items, {id(own): (items, own)})


def _copy_nested(part: Any, memo: Dict[int, Tuple[Any, Any]]) -> None:
    """Put copies in place of nested dicts and lists; shared and circular ones stay so."""
    if _NESTED.isdisjoint(map(type, part.values() if type(part) is dict else part)):
        return
    for key, val in part.items() if type(part) is dict else enumerate(part):
        if type(val) in _NESTED:
            if id(val) not in memo:
                copied = val.copy()
                # The original is kept too: ids are unique among living objects.
                memo[id(val)] = copied, val
                if _may_hold_nested(copied):
                    _copy_nested(copied, memo)
            part[key] = memo[id(val)][0]
