"""wandb.config, wandb.summary, wandb.log and the rest, before wandb.init().

They stand for "the current one". Until 0.31.0 the functions among them are
local ones, which pickle refuses (to 0.12.10 wandb.config is one, too).

In a worker that was passed nothing they raise, because a new process has no run
(https://github.com/Lightning-AI/pytorch-lightning/issues/7028, wandb issue 4990). There they
stand for the run that was active where the worker was started: see handover/parent_run.py.
"""

from __future__ import annotations

import copy
import importlib
import sys
import types
from typing import Any, List

from .._patching import (
    Patch,
    Undo,
    patch_class,
    require_class,
    set_attribute,
    throwaway_subclass,
    wraps_original,
)


class _Wandb:
    """The module wandb, where pickle would not take it."""

    def __reduce__(self):
        return importlib.import_module, ("wandb",)

    def __getattr__(self, name):
        # For copy.copy, which calls with this what pickle writes down.
        return getattr(sys.modules["wandb"], name)


# Not pkgutil.resolve_name: it came with Python 3.9, and to import and try it would
# take a tenth of the time that putting on all patches does.
def _named(name):
    """Reduce to what this name of wandb's is in the process that loads it."""
    return getattr, (_Wandb(), name.split(".", 1)[1])


def _current(stand_in):
    """Return what a stand-in stands for in this process, which was handed a run; else None."""
    from ..handover import parent_run  # late: importing wandb must stay quick

    if parent_run.adopt() is None:
        return None
    found = getattr(sys.modules["wandb"], stand_in._name.split(".", 1)[-1], None)
    return None if isinstance(found, type(stand_in)) else found


class PreInitObject:
    """What wandb.sdk.lib.preinit.PreInitObject should have had."""

    def __reduce__(self):
        return _named(self._name)

    @wraps_original
    def __getattr__(upstream, self, key):
        # Python and libraries look for names that begin so: to look is not to use.
        found = None if key[:1] == "_" else _current(self)
        return upstream(self, key) if found is None else getattr(found, key)

    @wraps_original
    def __setattr__(upstream, self, key, value):
        found = None if key[:1] == "_" else _current(self)
        if found is None:
            return upstream(self, key, value)
        return setattr(found, key, value)

    @wraps_original
    def __getitem__(upstream, self, key):
        found = _current(self)
        return upstream(self, key) if found is None else found[key]

    @wraps_original
    def __setitem__(upstream, self, key, value):
        found = _current(self)
        if found is None:
            return upstream(self, key, value)
        found[key] = value

    # By wandb alone, these two ask for the item 0, which raises the error of that.
    def __iter__(self):
        found = _current(self)
        return iter(found) if found is not None else iter([self[0]])

    def __contains__(self, key):
        found = _current(self)
        return key in found if found is not None else self[0]


class PreInitCallable:
    """A function of wandb's before wandb.init(): it raises, and can be pickled."""

    def __new__(cls, name: Any, destination: Any = None) -> Any:
        # 0.10 to 0.12.10 hand over a PreInitObject.
        return object.__new__(cls if isinstance(name, str) else PreInitFunction)

    def __init__(self, name: Any, destination: Any = None) -> None:
        self._name = str(getattr(name, "_name", name))
        self.__name__ = self._name
        # As a function has them: who registers or wraps functions reads them.
        self.__module__, self.__qualname__ = "wandb", self._name.split(".", 1)[-1]
        self.__annotations__ = {}
        if destination:
            self.__wrapped__ = destination
            self.__doc__ = destination.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = _current(self)
        if found is not None:
            return found(*args, **kwargs)
        import wandb

        raise wandb.Error(f"You must call wandb.init() before {self._name}()")

    def __reduce__(self):
        return _named(self._name)


class PreInitFunction(PreInitCallable):
    """wandb.config and wandb.summary, where they are functions, too (to 0.12.10)."""

    def __getattr__(self, key: str) -> Any:
        found = None if key[:1] == "_" else _current(self)
        if found is None:
            raise AttributeError(f"'function' object has no attribute {key!r}")
        return getattr(found, key)

    def __setattr__(self, key: str, value: Any) -> None:
        found = None if key[:1] == "_" else _current(self)
        (super() if found is None else found).__setattr__(key, value)

    def __getitem__(self, key: Any) -> Any:
        return self._found()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._found()[key] = value

    def __iter__(self) -> Any:
        return iter(self._found())

    def __contains__(self, key: Any) -> bool:
        return key in self._found()

    def _found(self) -> Any:
        found = _current(self)
        if found is None:
            raise TypeError("'function' object is not subscriptable: call wandb.init() first")
        return found


_MODULE = "wandb.sdk.lib.preinit"
_OBJECTS = ("config", "summary")


def _install(undo: List[Undo]) -> None:
    wandb, preinit = sys.modules["wandb"], sys.modules[_MODULE]
    stand_in = require_class(_MODULE, "PreInitObject")
    function = preinit.PreInitCallable

    def revert() -> None:
        # Those that wandb.finish() has made while we were on.
        for name, value in list(vars(wandb).items()):
            if isinstance(value, PreInitCallable):
                setattr(wandb, name, function(value._name, getattr(value, "__wrapped__", None)))

    undo.append(revert)
    patch_class(undo, stand_in, PreInitObject)
    made_by = function.__qualname__ + "."
    for name, value in list(vars(wandb).items()):
        if isinstance(value, types.FunctionType) and value.__qualname__.startswith(made_by):
            wrapped = getattr(value, "__wrapped__", None)
            as_upstream = f"wandb.{name}" if name not in _OBJECTS else stand_in(f"wandb.{name}")
            undo.append(set_attribute(wandb, name, PreInitCallable(as_upstream, wrapped)))
    # For wandb.finish(), which makes them anew.
    undo.append(set_attribute(preinit, "PreInitCallable", PreInitCallable))


def _is_fixed() -> bool:
    wandb, preinit = sys.modules["wandb"], sys.modules[_MODULE]
    # wandb.init stands in for any name: it is there before and after init. A function that
    # pickle finds by its name will not do: after init, that name is another object's.
    return all(
        copy.copy(stand_in("wandb.init")) is wandb.init
        for stand_in in (throwaway_subclass(preinit.PreInitObject), preinit.PreInitCallable)
    )


PATCHES = [
    Patch(
        modules=(_MODULE, "wandb"),
        name="PreInitCallable",
        install=_install,
        is_fixed=_is_fixed,
        why="wandb.config, wandb.log and the like can be sent to a worker before wandb.init()",
        since="0.10.23 or earlier",
    )
]
