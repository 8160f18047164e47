"""torch.load's default, weights_only, reads a checkpoint that holds a config.

It makes only objects of classes that are registered with it (torch 2.4 on;
https://docs.pytorch.org/docs/stable/notes/serialization.html). wandb issue 5062.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, List

from .._patching import Patch, Undo, require_class

_CONFIG = "wandb.sdk.wandb_config"


def _serialization() -> Any:
    return getattr(sys.modules["torch"], "serialization", None)


class _UntilImported:
    """Stands for wandb's Config where only torch is loaded: called by torch.load, it imports it."""

    def __new__(cls: Any) -> Any:
        # A config that is pickled as plain objects are is made by cls.__new__(cls), where
        # this has the class's place: wandb's own may be pickled so one day.
        return cls() if isinstance(cls, _UntilImported) else object.__new__(cls)

    def __init__(self) -> None:
        # torch looks up what a checkpoint names by these.
        self.__module__, self.__qualname__ = _CONFIG, "Config"
        self.__name__ = "Config"  # torch 2.4 and 2.5 ask for this one

    def __call__(self) -> Any:
        from wandb.sdk.wandb_config import Config

        # Not by __init__, which reads config-defaults.yaml: the state comes next.
        return Config.__new__(Config)

    def give_way(self) -> None:
        # A load that has begun goes on to call this, which thus stays in torch's list,
        # by a name that no checkpoint has.
        self.__qualname__ = self.__name__ = "Config before its import"


def _remove(trusted: Any) -> None:
    torch = _serialization()
    others = [kept for kept in torch.get_safe_globals() if kept is not trusted]
    torch.clear_safe_globals()
    torch.add_safe_globals(others)


def _stands_in() -> Any:
    kept = _serialization().get_safe_globals()
    return next((each for each in kept if type(each) is _UntilImported), None)


def _install_stand_in(undo: List[Undo]) -> None:
    stand_in = _UntilImported()
    _serialization().add_safe_globals([stand_in])
    undo.append(functools.partial(_remove, stand_in))


def _needs_no_stand_in() -> bool:
    has_list = hasattr(_serialization(), "add_safe_globals")
    return not has_list or _CONFIG in sys.modules or _stands_in() is not None


def _install(undo: List[Undo]) -> None:
    config = require_class(_CONFIG, "Config")
    stand_in = _stands_in()
    if stand_in is not None:
        stand_in.give_way()
    _serialization().add_safe_globals([config])
    undo.append(functools.partial(_remove, config))


def _is_fixed() -> bool:
    torch = _serialization()
    if not hasattr(torch, "add_safe_globals"):
        return True
    return require_class(_CONFIG, "Config") in torch.get_safe_globals()


PATCHES = [
    Patch(
        modules=("torch",),
        name="serialization without wandb",
        install=_install_stand_in,
        is_fixed=_needs_no_stand_in,
        why="torch.load reads a checkpoint that holds a config, and imports wandb for it",
        since="0.10.23 or earlier",
    ),
    Patch(
        modules=("torch", _CONFIG),
        name="serialization",
        install=_install,
        is_fixed=_is_fixed,
        why="torch.load reads a checkpoint that holds a config (issue 5062)",
        since="0.10.23 or earlier",
    ),
]
