"""Configs of a user's own subclass."""

from __future__ import annotations

import copy
import pickle
from typing import Any, List

from ..offline_run import ITEMS, offline_run
from ..registry import check, probe


@probe(fails="RecursionError|KeyError: '(train/)?__")
def config_subclass() -> None:
    """A subclass of Config with its own __getitem__ and __init__ can be read and sent."""
    with offline_run() as run:
        # Where pickle looks for it; not before, since its base class takes wandb's import.
        cls = globals()["_PrefixedConfig"] = _subclass(type(run.config))
        config: Any = cls("train/")
        config.update({f"train/{key}": val for key, val in ITEMS.items()})
        check(config.lr == 0.1, "its __getitem__ is not asked for an attribute")
        copies: List[Any] = [copy.copy(config), copy.deepcopy(config)]
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            copies.append(pickle.loads(pickle.dumps(config, protocol)))
        for copied in copies:
            check(type(copied) is cls, "another type came back")
            check((copied.lr, copied["nested"]) == (0.1, {"depth": 1}), "its items differ")
            copied.update({"new": 1})
            check("new" not in config, "changing the copy changed it")


def _subclass(config: Any) -> Any:
    class _PrefixedConfig(config):  # type: ignore[misc]
        def __init__(self, prefix: str) -> None:
            super().__init__()
            self.__dict__["_prefix"] = prefix

        def __getitem__(self, key: str) -> Any:
            return self._items[self.__dict__["_prefix"] + key]

    _PrefixedConfig.__qualname__ = "_PrefixedConfig"
    return _PrefixedConfig
