"""How a graft is put onto wandb, and taken off again.

A graft says which modules it needs, how to put it on, and how to try whether
wandb does the thing by itself. The trial decides everything: passed before,
the graft is not needed; failed after, it does not fit this wandb and is taken
off. No version of wandb is named anywhere.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import threading
import warnings
from typing import Any, Callable, List, Optional, Tuple

from . import _hooks

Undo = Callable[[], object]
_MISSING = object()
# What Python puts into any class by itself; the rest of a graft's body is meant.
_NOT_MEMBERS = frozenset(vars(type("_", (), {}))) | {
    "__annotations__",
    "__annotate_func__",
    "__annotations_cache__",
    "__firstlineno__",
    "__static_attributes__",
    "__doc__",
}


class Unfit(Exception):
    """This wandb lacks what a graft builds on; the message names it."""


class Graft:
    """One amendment to wandb.

    Args:
        modules: The modules that must have been imported; the first is the one
            that is amended.
        name: The class or object in it, for people to read.
        install: Puts the graft on, adding what takes each part off again to
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
        works: Callable[[], bool],
        why: str,
        since: str,
        optional: bool = False,
    ) -> None:
        self.modules, self.name = modules, name
        self.install, self.works = install, works
        self.why, self.since, self.optional = why, since, optional
        self.state = "waiting for import"
        self.reason = ""
        self._undo: List[Undo] = []

    @property
    def target(self) -> str:
        return f"{self.modules[0]}.{self.name}"

    def put_on(self) -> None:
        # Tried even where the graft is on: importlib.reload makes a new class.
        if self._passes():
            self.state = "applied" if self._undo else "not needed"
            return
        try:
            self.install(self._undo)
            if not self._passes():
                raise Unfit(f"{self.target} does not do as it should with the patch on")
        except Exception as error:
            self.take_off()
            self.state = "skipped"
            self.reason = str(error) if isinstance(error, Unfit) else f"{self.target}: {error!r}"
        else:
            self.state = "applied"

    def take_off(self) -> None:
        while self._undo:
            self._undo.pop()()
        self.state, self.reason = "off", ""

    def _passes(self) -> bool:
        try:
            return self.works()
        except Exception:
            return False


# --- putting things on, with the way back -----------------------------------


def replace(owner: Any, name: str, value: Any) -> Undo:
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


def around(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a method of a graft that is handed upstream's own as first argument."""
    function.__around__ = True  # type: ignore[attr-defined]
    return function


def put_members(undo: List[Undo], owner: type, body: type) -> None:
    """Copy what a graft's class body defines onto an upstream class."""
    if "__slotnames__" not in vars(owner):
        # A cache of copyreg's, which appears when an object is first pickled.
        undo.append(functools.partial(_forget, owner, "__slotnames__"))
    for name, member in vars(body).items():
        if name in _NOT_MEMBERS:
            continue
        if getattr(member, "__around__", False):
            if name not in vars(owner):
                raise Unfit(f"{owner.__module__}.{owner.__qualname__} has no {name}")
            member = _wrap(member, vars(owner)[name])
        undo.append(replace(owner, name, member))


def _forget(owner: type, name: str) -> None:
    if name in vars(owner):
        delattr(owner, name)


def _wrap(member: Callable[..., Any], upstream: Callable[..., Any]) -> Any:
    @functools.wraps(upstream)
    def method(*args: Any, **kwargs: Any) -> Any:
        return member(upstream, *args, **kwargs)

    return method


def trial(owner: Any) -> Any:
    """Make a throw-away subclass, so that trying things leaves no trace."""
    return type(owner.__name__, (owner,), {"__module__": owner.__module__})


def upstream_class(module: str, name: str, members: Tuple[str, ...] = ()) -> Any:
    """Get an upstream class.

    Raises:
        Unfit: The class, or one of the members that a graft builds on, is not
            there.
    """
    owner = getattr(sys.modules[module], name, None)
    if not isinstance(owner, type):
        raise Unfit(f"{module} has no class {name}")
    for member in members:
        if not hasattr(owner, member):
            raise Unfit(f"{module}.{name} has no {member}")
    return owner


# --- all grafts together ----------------------------------------------------

# Held while grafts are put on or off. Nothing is imported under it that is not
# loaded already, so no import lock is ever waited for.
_lock = threading.RLock()
_warned: set[str] = set()


@functools.lru_cache(maxsize=None)
def grafts() -> Tuple[Graft, ...]:
    """Every graft there is, in the order in which they are put on."""
    from .grafts import config, disabled, preinit, run, summary, torch

    parts = (config, summary, preinit, disabled, run, torch)
    return tuple(graft for part in parts for graft in part.GRAFTS)


def apply(after: Optional[str] = None) -> None:
    """Put on every graft whose modules have been imported.

    Args:
        after: The module that has just been imported: grafts that work, and do
            not depend on it, need not be tried again.
    """
    all_grafts = grafts()
    wandb_loaded = after == "wandb" or _executed("wandb")
    missing = set()
    if wandb_loaded:
        needed = {name for graft in all_grafts for name in graft.modules} - {"torch"}
        missing = {name for name in needed if name not in sys.modules and not _exists(name)}
    with _lock:
        for graft in all_grafts:
            settled = graft.state in ("applied", "not needed")
            if settled and after and after not in graft.modules:
                continue
            if all(name == after or _executed(name) for name in graft.modules):
                graft.put_on()
            elif graft.state == "off":
                graft.state = "waiting for import"
            if not missing.isdisjoint(graft.modules):
                graft.state = "not needed" if graft.optional else "skipped"
                graft.reason = f"{graft.target} is not there: no such module"
        skipped = [
            graft.reason
            for graft in all_grafts
            if graft.state == "skipped" and graft.reason not in _warned
        ]
        if wandb_loaded:
            _warned.update(skipped)
    if wandb_loaded and skipped:
        _warn("wandb runs without these patches, which do not fit it: " + "; ".join(skipped))


def revert() -> None:
    """Take every graft off, the last one first."""
    with _lock:
        for graft in reversed(grafts()):
            graft.take_off()


def _executed(name: str) -> bool:
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    # A lazy or reloaded module is not marked as being initialised.
    executing = getattr(spec, "_initializing", False) or name in _hooks.executing
    return module is not None and not executing


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:
        return False


def _warn(message: str) -> None:
    try:
        warnings.warn(f"wandb_ddp_patch: {message}", RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        # The user turned warnings into errors; an import must not fail for ours.
        if sys.stderr is not None:
            sys.stderr.write(f"wandb_ddp_patch: {message}\n")
