"""wandb.log and the like before wandb.init(): pickle refuses them (issue 4990; since 0.10.23).

wandb.config, wandb.summary, wandb.log and others stand for "the current one". Until 0.31.0
the functions among them are local ones, which pickle refuses (to 0.12.10 wandb.config and
wandb.summary are functions as well).

In a worker that was passed nothing they raise, because a new process has no run
(https://github.com/Lightning-AI/pytorch-lightning/issues/7028, wandb issue 4990). With the
patch they stand there for the run that was active where the worker was started: see
handover/parent_run.py.
"""

from __future__ import annotations

import copy
import importlib
import sys
import types
from typing import Any, Callable, List, Tuple

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
    """Stands for the module wandb in what pickle is told, since it refuses modules."""

    def __reduce__(self):
        return importlib.import_module, ("wandb",)

    def __getattr__(self, name):
        # copy.copy() pickles nothing: it calls getattr() with this object itself.
        return getattr(sys.modules["wandb"], name)


# Not pkgutil.resolve_name: it came with Python 3.9, and to import and try it would take a
# tenth of the time that applying all patches does.
def _reduce_to_name(name: str) -> Tuple[Callable[..., Any], Tuple[_Wandb, str]]:
    """Return, for ``__reduce__``, what finds the object of this name where it is loaded."""
    return getattr, (_Wandb(), name.split(".", 1)[1])


def _current(placeholder: Any) -> Any:
    """Return what a placeholder stands for in a worker whose parent has a run; else None."""
    from ..handover import parent_run

    if parent_run.adopt() is None:
        return None
    current = getattr(sys.modules["wandb"], placeholder._name.split(".", 1)[-1], None)
    return None if isinstance(current, type(placeholder)) else current


class PreInitObject:
    """What wandb.sdk.lib.preinit.PreInitObject should have had."""

    def __reduce__(self):
        return _reduce_to_name(self._name)

    @wraps_original
    def __getattr__(original, self, key):  # type: ignore[misc]
        # Python and libraries look for names that begin with "_" in whatever they meet: that
        # must not attach this process to a run.
        current = None if key[:1] == "_" else _current(self)
        return original(self, key) if current is None else getattr(current, key)

    @wraps_original
    def __setattr__(original, self, key, value):  # type: ignore[misc]
        current = None if key[:1] == "_" else _current(self)
        if current is None:
            return original(self, key, value)
        return setattr(current, key, value)

    @wraps_original
    def __getitem__(original, self, key):
        current = _current(self)
        return original(self, key) if current is None else current[key]

    @wraps_original
    def __setitem__(original, self, key, value):
        current = _current(self)
        if current is None:
            return original(self, key, value)
        current[key] = value

    # wandb's class has neither of these two: Python then asks for the item 0, and wandb raises
    # its error for that. The same error is raised here where there is no run.
    def __iter__(self):
        current = _current(self)
        return iter(current) if current is not None else iter([self[0]])

    def __contains__(self, key):
        current = _current(self)
        return key in current if current is not None else self[0]


class PreInitCallable:
    """What wandb.sdk.lib.preinit.PreInitCallable, a factory of local functions, should be.

    An instance stands for a function of wandb's before wandb.init(): it raises when it is
    called, and can be pickled.
    """

    def __new__(cls, name: Any, destination: Any = None) -> Any:
        # From 0.10 to 0.12.10 wandb passes a PreInitObject for wandb.config and wandb.summary.
        return object.__new__(cls if isinstance(name, str) else PreInitFunction)

    def __init__(self, name: Any, destination: Any = None) -> None:
        self._name = str(getattr(name, "_name", name))
        self.__name__ = self._name
        # As a function has them: libraries that register or wrap functions read them.
        self.__module__, self.__qualname__ = "wandb", self._name.split(".", 1)[-1]
        self.__annotations__ = {}
        if destination:
            self.__wrapped__ = destination
            self.__doc__ = destination.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        current = _current(self)
        if current is not None:
            return current(*args, **kwargs)
        import wandb

        raise wandb.Error(f"You must call wandb.init() before {self._name}()")

    def __reduce__(self):
        return _reduce_to_name(self._name)


class PreInitFunction(PreInitCallable):
    """wandb.config and wandb.summary in the releases where they are functions (to 0.12.10)."""

    def __getattr__(self, key: str) -> Any:
        current = None if key[:1] == "_" else _current(self)
        if current is None:
            raise AttributeError(f"'function' object has no attribute {key!r}")
        return getattr(current, key)

    def __setattr__(self, key: str, value: Any) -> None:
        current = None if key[:1] == "_" else _current(self)
        (super() if current is None else current).__setattr__(key, value)

    def __getitem__(self, key: Any) -> Any:
        return self._require_current()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._require_current()[key] = value

    def __iter__(self) -> Any:
        return iter(self._require_current())

    def __contains__(self, key: Any) -> bool:
        return key in self._require_current()

    def _require_current(self) -> Any:
        current = _current(self)
        if current is None:
            raise TypeError("'function' object is not subscriptable: call wandb.init() first")
        return current


_MODULE = "wandb.sdk.lib.preinit"
_OBJECTS = ("config", "summary")


def _install(undo: List[Undo]) -> None:
    wandb, preinit = sys.modules["wandb"], sys.modules[_MODULE]
    pre_init_object = require_class(_MODULE, "PreInitObject")
    factory = preinit.PreInitCallable

    def revert() -> None:
        # Those that wandb.finish() has made since the patch was applied.
        for name, value in list(vars(wandb).items()):
            if isinstance(value, PreInitCallable):
                setattr(wandb, name, factory(value._name, getattr(value, "__wrapped__", None)))

    undo.append(revert)
    patch_class(undo, pre_init_object, PreInitObject)
    prefix = factory.__qualname__ + "."  # how the factory's local functions are called
    for name, value in list(vars(wandb).items()):
        if isinstance(value, types.FunctionType) and value.__qualname__.startswith(prefix):
            wrapped = getattr(value, "__wrapped__", None)
            dotted = f"wandb.{name}"
            first = pre_init_object(dotted) if name in _OBJECTS else dotted
            undo.append(set_attribute(wandb, name, PreInitCallable(first, wrapped)))
    # For wandb.finish(), which makes new ones.
    undo.append(set_attribute(preinit, "PreInitCallable", PreInitCallable))


def _is_fixed() -> bool:
    wandb, preinit = sys.modules["wandb"], sys.modules[_MODULE]
    # "wandb.init" is an example of a name, one that is there before and after wandb.init(). A
    # function that pickle finds by its name is no fix: after init, that name is another
    # object's, and pickle refuses it.
    return all(
        copy.copy(placeholder("wandb.init")) is wandb.init
        for placeholder in (throwaway_subclass(preinit.PreInitObject), preinit.PreInitCallable)
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
