"""torch.load() refuses a checkpoint that holds a Config (issue 5062; since torch 2.6).

With weights_only, its default from 2.6 on, it makes only objects of classes that are
registered as safe globals, which torch 2.4 and later have
(https://docs.pytorch.org/docs/stable/notes/serialization.html).
"""

from __future__ import annotations

import functools
import sys
from typing import Any, List, Optional

from .._patching import Patch, Undo, require_class

_CONFIG = "wandb.sdk.wandb_config"


def _serialization() -> Any:
    return getattr(sys.modules["torch"], "serialization", None)


class _ConfigPlaceholder:
    """A safe global in the place of wandb's Config where only torch has been imported.

    torch.load() finds it by the name that is in the checkpoint, and calls it: then it
    imports wandb.
    """

    def __new__(cls: Any) -> Any:
        # For an object in pickle's default form, torch calls cls.__new__(cls), with this object,
        # an instance, in the place of cls. wandb's own configs may be pickled so one day.
        return cls() if isinstance(cls, _ConfigPlaceholder) else object.__new__(cls)

    def __init__(self) -> None:
        # By these, torch finds what a checkpoint names.
        self.__module__, self.__qualname__ = _CONFIG, "Config"
        self.__name__ = "Config"  # torch 2.4 and 2.5 ask for this one

    def __call__(self) -> Any:
        from wandb.sdk.wandb_config import Config

        # Without __init__, which reads config-defaults.yaml: torch sets the state next.
        return Config.__new__(Config)

    def retire(self) -> None:
        # A torch.load() that has begun already goes on to call this object, and refuses one that
        # is not in torch's list. So it stays there, by a name that no checkpoint has.
        self.__qualname__ = self.__name__ = "Config before its import"


def _remove(trusted: Any) -> None:
    torch = _serialization()
    others = [each for each in torch.get_safe_globals() if each is not trusted]
    torch.clear_safe_globals()
    torch.add_safe_globals(others)


def _placeholder() -> Optional[_ConfigPlaceholder]:
    trusted = _serialization().get_safe_globals()
    return next((each for each in trusted if type(each) is _ConfigPlaceholder), None)


def _install_placeholder(undo: List[Undo]) -> None:
    placeholder = _ConfigPlaceholder()
    _serialization().add_safe_globals([placeholder])
    undo.append(functools.partial(_remove, placeholder))


def _needs_no_placeholder() -> bool:
    has_list = hasattr(_serialization(), "add_safe_globals")
    return not has_list or _CONFIG in sys.modules or _placeholder() is not None


def _install(undo: List[Undo]) -> None:
    config = require_class(_CONFIG, "Config")
    placeholder = _placeholder()
    if placeholder is not None:
        placeholder.retire()
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
        install=_install_placeholder,
        is_fixed=_needs_no_placeholder,
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
