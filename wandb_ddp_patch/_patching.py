"""How a patch is put onto wandb, and taken off again; which there are: _registry.py.

A patch says which modules it needs, how to put it on, and how to try whether
wandb does the thing by itself. The trial decides everything: passed before,
the patch is not needed; failed after, it does not fit this wandb and is taken
off. No version of wandb is named anywhere.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Callable, List, Tuple

Undo = Callable[[], object]
_MISSING = object()
# What Python puts into any class by itself; the rest of a patch's body is meant.
_NOT_MEMBERS = frozenset(vars(type("_", (), {}))) | {
    "__annotations__",
    "__annotate_func__",
    "__annotations_cache__",
    "__firstlineno__",
    "__static_attributes__",
    "__doc__",
}


class IncompatibleError(Exception):
    """This wandb lacks what a patch builds on; the message names it."""


class Patch:
    """One amendment to wandb.

    Args:
        modules: The modules that must have been imported; the first is the one
            that is amended.
        name: The class or object in it, for people to read.
        install: Puts the patch on, adding what takes each part off again to
            a list: where it fails half way, that half comes off.
        works: Raises, or returns False, where wandb has the fault.
        why: The fault, in a sentence.
        since: The first wandb release that has it, as far back as measured.
        optional: For releases of the past: nothing is amiss where it is gone.
    """

    # No dataclass: making one takes a tenth of what importing this package does.
    def __init__(
        self,
        *,
        modules: Tuple[str, ...],
        name: str,
        install: Callable[[List[Undo]], None],
        is_fixed: Callable[[], bool],
        why: str,
        since: str,
        optional: bool = False,
    ) -> None:
        self.modules, self.name = modules, name
        self.install, self.is_fixed = install, is_fixed
        self.why, self.since, self.optional = why, since, optional
        self.state = "waiting for import"
        self.reason = ""
        self._undo: List[Undo] = []

    @property
    def target(self) -> str:
        return f"{self.modules[0]}.{self.name}"

    def apply(self) -> None:
        # Tried even where the patch is on: importlib.reload makes a new class.
        if self._passes():
            self.state = "applied" if self._undo else "not needed"
            return
        try:
            self.install(self._undo)
            if not self._passes():
                raise IncompatibleError(f"{self.target} does not do as it should with the patch on")
        except Exception as error:
            self.revert()
            self.state = "skipped"
            self.reason = (
                str(error) if isinstance(error, IncompatibleError) else f"{self.target}: {error!r}"
            )
        else:
            self.state = "applied"

    def revert(self) -> None:
        while self._undo:
            self._undo.pop()()
        self.state, self.reason = "off", ""

    def _passes(self) -> bool:
        try:
            return self.is_fixed()
        except Exception:
            return False


# --- putting things on, with the way back -----------------------------------


def set_attribute(owner: Any, name: str, value: Any) -> Undo:
    """Set an attribute of a class or module; returns what restores it."""
    before = vars(owner).get(name, _MISSING)
    setattr(owner, name, value)
    mine = vars(owner)[name]

    def undo() -> None:
        if vars(owner).get(name) is not mine:
            return  # somebody has patched after us: theirs to take off
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    return undo


def wraps_original(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a method of a patch that is handed upstream's own as first argument."""
    function.__around__ = True  # type: ignore[attr-defined]
    return function


def patch_class(undo: List[Undo], owner: type, body: type) -> None:
    """Copy what a patch's class body defines onto an upstream class."""
    if "__slotnames__" not in vars(owner):
        # A cache of copyreg's, which appears when an object is first pickled.
        undo.append(functools.partial(_forget, owner, "__slotnames__"))
    for name, member in vars(body).items():
        if name in _NOT_MEMBERS:
            continue
        if getattr(member, "__around__", False):
            if name not in vars(owner):
                raise IncompatibleError(f"{owner.__module__}.{owner.__qualname__} has no {name}")
            member = _wrap(member, vars(owner)[name])
        undo.append(set_attribute(owner, name, member))


def _forget(owner: type, name: str) -> None:
    if name in vars(owner):
        delattr(owner, name)


def _wrap(member: Callable[..., Any], upstream: Callable[..., Any]) -> Any:
    @functools.wraps(upstream)
    def method(*args: Any, **kwargs: Any) -> Any:
        return member(upstream, *args, **kwargs)

    return method


def throwaway_subclass(owner: Any) -> Any:
    """Make a throw-away subclass, so that trying things leaves no trace."""
    return type(owner.__name__, (owner,), {"__module__": owner.__module__})


def require_class(module: str, name: str, members: Tuple[str, ...] = ()) -> Any:
    """Get an upstream class.

    Raises:
        Unfit: The class, or one of the members that a patch builds on, is not
            there.
    """
    owner = getattr(sys.modules[module], name, None)
    if not isinstance(owner, type):
        raise IncompatibleError(f"{module} has no class {name}")
    for member in members:
        if not hasattr(owner, member):
            raise IncompatibleError(f"{module}.{name} has no {member}")
    return owner
