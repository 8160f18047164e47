"""wandb.config, wandb.summary, wandb.log and the rest, before wandb.init().

They stand for "the current one". Until 0.31.0 the functions among them are
local ones, which pickle refuses (to 0.12.10 wandb.config is one, too).
"""

from __future__ import annotations

import copy
import importlib
import sys
import types
from typing import Any, List

from .._graft import Graft, Undo, put_members, replace, trial, upstream_class


class _Wandb:
    """The module wandb, where pickle would not take it."""

    def __reduce__(self):
        return importlib.import_module, ("wandb",)

    def __getattr__(self, name):
        # For copy.copy, which calls with this what pickle writes down.
        return getattr(sys.modules["wandb"], name)


# Not pkgutil.resolve_name: it came with Python 3.9, and to import and try it would
# take a tenth of the time that putting on all grafts does.
def _named(name):
    """Reduce to what this name of wandb's is in the process that loads it."""
    return getattr, (_Wandb(), name.split(".", 1)[1])


class PreInitObject:
    """What wandb.sdk.lib.preinit.PreInitObject should have had."""

    def __reduce__(self):
        return _named(self._name)


class PreInitCallable:
    """A function of wandb's before wandb.init(): it raises, and can be pickled."""

    def __init__(self, name: Any, destination: Any = None) -> None:
        # 0.10 to 0.12.10 hand over a PreInitObject.
        self._name = str(getattr(name, "_name", name))
        self.__name__ = self._name
        # As a function has them: who registers or wraps functions reads them.
        self.__module__, self.__qualname__ = "wandb", self._name.split(".", 1)[-1]
        self.__annotations__ = {}
        if destination:
            self.__wrapped__ = destination
            self.__doc__ = destination.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import wandb

        raise wandb.Error(f"You must call wandb.init() before {self._name}()")

    def __reduce__(self):
        return _named(self._name)


_MODULE = "wandb.sdk.lib.preinit"


def _install(undo: List[Undo]) -> None:
    wandb, preinit = sys.modules["wandb"], sys.modules[_MODULE]
    stand_in = upstream_class(_MODULE, "PreInitObject")
    function = preinit.PreInitCallable

    def take_off() -> None:
        # Those that wandb.finish() has made while we were on.
        for name, value in list(vars(wandb).items()):
            if isinstance(value, PreInitCallable):
                setattr(wandb, name, function(value._name, getattr(value, "__wrapped__", None)))

    undo.append(take_off)
    put_members(undo, stand_in, PreInitObject)
    made_by = function.__qualname__ + "."
    for name, value in list(vars(wandb).items()):
        if isinstance(value, types.FunctionType) and value.__qualname__.startswith(made_by):
            wrapped = getattr(value, "__wrapped__", None)
            undo.append(replace(wandb, name, PreInitCallable(f"wandb.{name}", wrapped)))
    # For wandb.finish(), which makes them anew.
    undo.append(replace(preinit, "PreInitCallable", PreInitCallable))


def _works() -> bool:
    wandb, preinit = sys.modules["wandb"], sys.modules[_MODULE]
    # wandb.init stands in for any name: it is there before and after init. A function that
    # pickle finds by its name will not do: after init, that name is another object's.
    return all(
        copy.copy(stand_in("wandb.init")) is wandb.init
        for stand_in in (trial(preinit.PreInitObject), preinit.PreInitCallable)
    )


GRAFTS = [
    Graft(
        modules=(_MODULE, "wandb"),
        name="PreInitCallable",
        install=_install,
        works=_works,
        why="wandb.config, wandb.log and the like can be sent to a worker before wandb.init()",
        since="0.10.23 or earlier",
    )
]
