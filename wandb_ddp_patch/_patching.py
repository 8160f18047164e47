"""How wandb is patched, and put back: which patches there are is in _registry.py.

A patch says which modules it needs, how it is installed, and how to find out whether the
fault is there. That check decides everything: where it passes before, the patch is not
needed; where it fails afterwards, the patch does not fit this wandb and is reverted. No
version of wandb is named anywhere.

**Class bodies.** What a patch changes in a class is written as a plain class, with the
methods that wandb's class should have had, so that a file in patches/ reads like the class
that it amends. Such a body is never instantiated: :func:`patch_class` copies its members
onto wandb's class, so ``self`` is an instance of that one. A member takes the place of
wandb's of the same name. One that is marked with :func:`wraps_original` wraps it: it is
called with the original function first, before ``self``.
"""

from __future__ import annotations

import enum
import functools
import sys
from types import ModuleType
from typing import Any, Callable, List, Tuple, Union

Undo = Callable[[], object]
_MISSING = object()
_WRAPPER_MARK = "_wandb_ddp_patch_wrapper"
# What Python itself puts into every class; all else in a class body is a member to be copied.
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


class State(enum.Enum):
    """What became of a patch. The values are what ``status()`` and ``doctor`` show."""

    WAITING = "waiting for import"
    APPLIED = "applied"
    NOT_NEEDED = "not needed"  # wandb does it by itself
    SKIPPED = "skipped"  # it does not fit this wandb
    OFF = "off"  # reverted


class Patch:
    """One amendment to wandb.

    Args:
        modules: The modules that must have been imported; the first is the one
            that is amended.
        name: The class or object in it, for people to read.
        install: Makes the changes. It appends to the list that it is passed what
            undoes each of them, as it goes: where it fails half way, that half is undone.
        is_fixed: Returns False, or raises, where wandb has the fault.
        why: What is right with the patch, as a clause, which status() shows.
        since: The first wandb release that has it, as far back as measured.
        optional: Whether only past releases need it: nothing is wrong where its
            modules do not exist.
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
        self.state = State.WAITING
        self.reason = ""  # why it was skipped
        self._undo: List[Undo] = []

    @property
    def target(self) -> str:
        """What is amended, as a dotted name."""
        return f"{self.modules[0]}.{self.name}"

    def apply(self) -> None:
        """Install the patch where wandb has the fault. It never raises: see ``state``."""
        # Checked even where it is installed: importlib.reload() makes a new class, which has
        # the fault again.
        if self._fault_is_gone():
            self.state = State.APPLIED if self._undo else State.NOT_NEEDED
            return
        try:
            self.install(self._undo)
            if not self._fault_is_gone():
                raise IncompatibleError(f"{self.target} does not do as it should with the patch on")
        except Exception as error:
            self.revert()
            self.state = State.SKIPPED
            self.reason = (
                str(error) if isinstance(error, IncompatibleError) else f"{self.target}: {error!r}"
            )
        else:
            self.state = State.APPLIED

    def revert(self) -> None:
        """Undo all that was installed, the last change first."""
        while self._undo:
            self._undo.pop()()
        self.state, self.reason = State.OFF, ""

    def _fault_is_gone(self) -> bool:
        try:
            return self.is_fixed()
        except Exception:
            return False


# --- changes that can be undone ----------------------------------------------


def set_attribute(target: Union[type, ModuleType], name: str, value: Any) -> Undo:
    """Set an attribute of a class or module, and return what restores it."""
    # Not getattr(): what a base class has is not the target's to restore, and a descriptor
    # (a property, a classmethod) would come back as what it returns.
    before = vars(target).get(name, _MISSING)
    setattr(target, name, value)
    ours = vars(target)[name]

    def undo() -> None:
        # Somebody else may have patched the same name since, on top of ours: to restore the
        # original would silently drop that patch. Who came last has to be reverted first.
        if vars(target).get(name) is not ours:
            return
        if before is _MISSING:
            delattr(target, name)
        else:
            setattr(target, name, before)

    return undo


def wraps_original(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a method of a class body as a wrapper: its first argument is the original."""
    setattr(function, _WRAPPER_MARK, True)
    return function


def patch_class(undo: List[Undo], cls: type, body: type) -> None:
    """Copy the members of a class body onto a class of wandb's.

    Args:
        undo: What undoes each change is appended here.
        cls: wandb's class.
        body: The class body; see the top of this file.

    Raises:
        IncompatibleError: ``cls`` itself does not define what a member wraps.
    """
    if "__slotnames__" not in vars(cls):
        # copyreg caches the names of slots in the class when an object is first pickled.
        # Left behind, it would tell a reverted class from one that was never patched.
        undo.append(functools.partial(_delete_attribute, cls, "__slotnames__"))
    for name, member in vars(body).items():
        if name in _NOT_MEMBERS:
            continue
        if getattr(member, _WRAPPER_MARK, False):
            if name not in vars(cls):
                raise IncompatibleError(f"{cls.__module__}.{cls.__qualname__} has no {name}")
            member = _bind_original(member, vars(cls)[name])
        undo.append(set_attribute(cls, name, member))


def _delete_attribute(cls: type, name: str) -> None:
    if name in vars(cls):
        delattr(cls, name)


def _bind_original(wrapper: Callable[..., Any], original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    return method


# --- looking at wandb's classes ----------------------------------------------


def throwaway_subclass(cls: Any) -> Any:
    """Return a new subclass, so that a check leaves no trace in wandb's own class."""
    return type(cls.__name__, (cls,), {"__module__": cls.__module__})


def require_class(module: str, name: str, members: Tuple[str, ...] = ()) -> Any:
    """Return a class of wandb's.

    Args:
        module: Its module, which has been imported.
        name: Its name.
        members: What a patch builds on, of what it defines or inherits.

    Raises:
        IncompatibleError: The class, or one of the members, is not there.
    """
    cls = getattr(sys.modules[module], name, None)
    if not isinstance(cls, type):
        raise IncompatibleError(f"{module} has no class {name}")
    for member in members:
        if not hasattr(cls, member):
            raise IncompatibleError(f"{module}.{name} has no {member}")
    return cls
