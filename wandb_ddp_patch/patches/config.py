"""Config: copy and pickle recurse, or take the API key along (issue 2007; since 0.10.23).

https://github.com/wandb/wandb/issues/2007, from the release of that report to 0.31.0 (also
issues 833, 3748 and 5062). ``Config.__getattr__`` answers for dunder names, and recurses on
an instance whose ``__init__`` has not run, which is what copy and pickle hand to it; and
the default state leads through ``_settings`` to the API key.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import os
from multiprocessing import process
from typing import Any, List

from .._patching import Patch, Undo, patch_class, require_class, wraps_original
from ._errors import MissingNameError
from ._snapshot import TELEMETRY, copy_items, copy_locks


class Config:
    """What wandb.sdk.wandb_config.Config should have had."""

    # Never pickled: they lead to the run, its service and the API key.
    _LEFT_BEHIND = dict.fromkeys(("_callback", "_settings", "_artifact_callback"))

    def __getattr__(self, key):
        # Python's protocols look up dunder names on instances: none is a hyperparameter.
        # config["__name__"] still reads such an item. And who gets here for _items asks an
        # instance that has none yet, as copy and pickle make them: self[key] would look for
        # _items again, and recurse. The comparison with "`" keeps a read as fast as it was:
        # names that begin with "_" sort before it, as do few others.
        if key < "`" and (key[:2] == "__" == key[-2:] or key == "_items"):
            raise AttributeError(f"{self.__class__!r} object has no attribute {key!r}")
        try:
            return self[key]
        except KeyError as ke:
            raise AttributeError(f"{self.__class__!r} object has no attribute {key!r}") from ke

    def __reduce_ex__(self, protocol):
        """Reduce to the class and plain data, so that wandb alone can load it.

        A subclass with a constructor of its own is reduced to Python's default form, which
        calls no ``__init__``, and calls what the subclass overrides.
        """
        cls = type(self)
        if "_LEFT_BEHIND" not in cls.__dict__:
            if not self._has_default_constructor():
                return object.__reduce_ex__(self, max(protocol, 2))
            return cls, (), self.__getstate__()
        # Config itself, which is what nearly every payload holds: its __init__ sets what is left
        # out here, and so keeps the payload small. Few configs have locks: those of sweeps do.
        own = self.__dict__
        state = own.copy()
        pop = state.pop
        for key in cls._LEFT_BEHIND:
            pop(key, None)
        if pop("_locked", 0) or pop("_users", 0) or pop("_users_inv", 0) or pop("_users_cnt", 0):
            copy_locks(state, own)
        copy_items(state)
        return cls, (), state

    def __dask_tokenize__(self):
        # By default dask hashes the pickle, in which the order of keys counts: that of nested
        # dicts, as W&B's service returns them, changes from run to run.
        from dask.base import normalize_token  # only dask calls this

        items = self._items.copy()
        items.pop(TELEMETRY, None)
        return type(self).__module__, type(self).__qualname__, normalize_token(items)

    def __copy__(self):
        return self._copy(None)

    def __deepcopy__(self, memo):
        return self._copy(memo)

    def _copy(self, memo):
        # Without calling __init__, which reads config-defaults.yaml.
        if self._has_default_constructor():
            cls = type(self)
            is_config = "_LEFT_BEHIND" in cls.__dict__  # a subclass may override __getstate__
            state = self._full_state() if is_config else self.__getstate__()
            reduced = copyreg.__newobj__, (cls,), state
        else:
            reduced = self.__reduce_ex__(4)
        if isinstance(reduced, str):  # the name of a global: there is only one such object
            return self
        return copy._reconstruct(self, memo, *reduced)

    @classmethod
    def _has_default_constructor(cls):
        config = next(base for base in cls.__mro__ if "_LEFT_BEHIND" in vars(base))
        names = ("__init__", "__new__", "_load_defaults", "__reduce__", "__reduce_ex__")
        return all(getattr(cls, name) is getattr(config, name) for name in names)

    def __getstate__(self):
        return self._full_state(telemetry=False)

    def _full_state(self, telemetry=True):
        state = self.__dict__.copy()
        state.update(self._LEFT_BEHIND)
        copy_locks(state, self.__dict__)
        copy_items(state, telemetry)
        slots = {}
        for name in copyreg._slotnames(type(self)):
            # Not with getattr(): for an empty slot it would go on to look for an item.
            with contextlib.suppress(AttributeError):
                slots[name] = object.__getattribute__(self, name)
        return (state, slots) if slots else state

    def __setstate__(self, state):
        state, slots = state if isinstance(state, tuple) else (state, {})
        own = self.__dict__
        own.update(self._LEFT_BEHIND)
        own.update(state or {})
        if "_items" in own and "_locked" not in own:  # torch.load() calls no __init__
            own.update(_locked={}, _users={}, _users_inv={}, _users_cnt=0)
        for name, value in slots.items():
            object.__setattr__(self, name, value)
        if process.parent_process() or getattr(process.current_process(), "_inheriting", False):
            own["_callback"] = self._changed_in_worker

    @staticmethod
    def _changed_in_worker(key=None, val=None, data=None):
        import wandb

        wandb.termwarn(
            "This config is a copy, in a worker process: changes to it stay in the"
            " worker. To change the run's config, pass the run and use run.config.",
            repeat=False,
        )


class ConfigWithKeyError:
    """For releases whose Config raises KeyError for a missing name (to 0.12)."""

    def __getattr__(self, key):
        if key < "`" and (key[:2] == "__" == key[-2:] or key == "_items"):
            raise AttributeError(f"{self.__class__!r} object has no attribute {key!r}")
        try:
            return self[key]
        except KeyError as ke:
            raise MissingNameError(key) from ke


class ConfigWithDefaults:
    """Config, for releases whose ``__init__`` imports yaml for a file that is seldom there."""

    @wraps_original
    def _load_defaults(original, self):
        # It takes half the time of os.path.exists(), which raises and catches an exception.
        if os.access(_DEFAULTS, os.F_OK):
            original(self)


# In the current folder; the name is a constant in wandb's _load_defaults.
_DEFAULTS = "config-defaults.yaml"


def _class() -> Any:
    members = ("__init__", "__getitem__", "__getattr__", "_load_defaults")
    return require_class("wandb.sdk.wandb_config", "Config", members)


def _install(undo: List[Undo]) -> None:
    config = _class()
    bodies: List[type] = [Config]
    blank = config.__new__(config)
    blank.__dict__["_items"] = {}
    try:
        blank.missing  # noqa: B018
    except AttributeError:
        pass
    except KeyError:
        bodies.append(ConfigWithKeyError)
    if _DEFAULTS in config._load_defaults.__code__.co_consts:
        bodies.append(ConfigWithDefaults)
    for body in bodies:
        patch_class(undo, config, body)


def _is_fixed() -> bool:
    upstream = _class()
    # A subclass, because __init__ reads config-defaults.yaml in the current folder: a check
    # must not do that.
    subclass: Any = type("Config", (upstream,), {"_load_defaults": lambda self: None})
    config = subclass()
    config.__dict__["_items"]["key"] = {"nested": 1}
    config.__dict__["_settings"] = config.__dict__["_callback"] = secret = object()
    # First, because where this fails the rest would end in a recursion, which takes longer
    # than to apply all patches.
    if any(isinstance(part, dict) and secret in part.values() for part in config.__reduce_ex__(2)):
        return False
    if hasattr(upstream.__new__(upstream), "_items"):
        return False
    for copied in (copy.copy(config), copy.deepcopy(config)):
        if dict(copied) != {"key": {"nested": 1}} or secret in vars(copied).values():
            return False
    return not hasattr(config, "__getstate_of_no_python__")


PATCHES = [
    Patch(
        modules=("wandb.sdk.wandb_config",),
        name="Config",
        install=_install,
        is_fixed=_is_fixed,
        why="a config can be copied, pickled and sent to a worker,"
        " without the API key (issues 833, 2007, 3748, 5062)",
        since="0.10.23 or earlier",
    )
]
