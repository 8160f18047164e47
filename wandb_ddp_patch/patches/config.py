"""wandb.config: copied, pickled and sent to workers as plain data.

Broken since 0.10.23, the release of the report, and still in 0.31.0:
https://github.com/wandb/wandb/issues/2007 (also 833, 3748 and 5062).
``Config.__getattr__`` answers for dunder names and recurses on an instance
whose ``__init__`` has not run, which is what copy and pickle hand to it; and
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

    # They lead to the run, its service and the API key.
    _LEFT_BEHIND = dict.fromkeys(("_callback", "_settings", "_artifact_callback"))

    def __getattr__(self, key):
        # Python's protocols look up dunder names on instances: none is a
        # hyperparameter. config["__name__"] still reads such an item. And to
        # ask for _items here means that there are none: copy and pickle make
        # such instances. Names that begin with "_" sort before "`", as few
        # others do: this keeps a read as fast as it was.
        if key < "`" and (key[:2] == "__" == key[-2:] or key == "_items"):
            raise AttributeError(f"{self.__class__!r} object has no attribute {key!r}")
        try:
            return self[key]
        except KeyError as ke:
            raise AttributeError(f"{self.__class__!r} object has no attribute {key!r}") from ke

    def __reduce_ex__(self, protocol):
        """Reduce to the class and plain data, so that wandb alone can load it.

        Where a subclass is made in another way than Config, Python's own form:
        it runs no __init__, and calls what the subclass overrides.
        """
        cls = type(self)
        if "_LEFT_BEHIND" not in cls.__dict__:
            if not self._is_made_as_config():
                return object.__reduce_ex__(self, max(protocol, 2))
            return cls, (), self.__getstate__()
        # Config itself: its __init__ sets what is left out here. Few have locks: sweeps do.
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
        # By default dask takes the pickle, which also tells of the order of keys: in nested
        # dicts, as W&B's service gives them back, that changes from run to run.
        from dask.base import normalize_token  # who calls this has it

        items = self._items.copy()
        items.pop(TELEMETRY, None)
        return type(self).__module__, type(self).__qualname__, normalize_token(items)

    def __copy__(self):
        return self._copied(None)

    def __deepcopy__(self, memo):
        return self._copied(memo)

    def _copied(self, memo):
        # Not by way of __init__, which reads config-defaults.yaml.
        if self._is_made_as_config():
            cls = type(self)
            own = "_LEFT_BEHIND" in cls.__dict__  # a subclass may have its own __getstate__
            parts = copyreg.__newobj__, (cls,), self._whole_state() if own else self.__getstate__()
        else:
            parts = self.__reduce_ex__(4)
        if isinstance(parts, str):  # the name of an object of which there is but one
            return self
        return copy._reconstruct(self, memo, *parts)

    @classmethod
    def _is_made_as_config(cls):
        config = next(base for base in cls.__mro__ if "_LEFT_BEHIND" in vars(base))
        ways = ("__init__", "__new__", "_load_defaults", "__reduce__", "__reduce_ex__")
        return all(getattr(cls, name) is getattr(config, name) for name in ways)

    def __getstate__(self):
        return self._whole_state(telemetry=False)

    def _whole_state(self, telemetry=True):
        state = self.__dict__.copy()
        state.update(self._LEFT_BEHIND)
        copy_locks(state, self.__dict__)
        copy_items(state, telemetry)
        slots = {}
        for name in copyreg._slotnames(type(self)):
            # Not with getattr(), for which an empty slot would be an item.
            with contextlib.suppress(AttributeError):
                slots[name] = object.__getattribute__(self, name)
        return (state, slots) if slots else state

    def __setstate__(self, state):
        state, slots = state if isinstance(state, tuple) else (state, {})
        own = self.__dict__
        own.update(self._LEFT_BEHIND)
        own.update(state or {})
        if "_items" in own and "_locked" not in own:  # torch.py makes it without __init__
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
    """Without this, loading the first config imports yaml, for a file that is not there."""

    @wraps_original
    def _load_defaults(upstream, self):
        # Half of os.path.exists()'s time, which makes an exception.
        if os.access(_DEFAULTS, os.F_OK):
            upstream(self)


# --- putting it on ----------------------------------------------------------------------

# In the current folder; the name stands in wandb's _load_defaults.
_DEFAULTS = "config-defaults.yaml"


def _class() -> Any:
    members = ("__init__", "__getitem__", "__getattr__", "_load_defaults")
    return require_class("wandb.sdk.wandb_config", "Config", members)


def _install(undo: List[Undo]) -> None:
    config = _class()
    blank = config.__new__(config)
    blank.__dict__["_items"] = {}
    try:
        blank.missing  # noqa: B018
    except AttributeError:
        bodies: List[type] = [Config]
    except KeyError:
        bodies = [Config, ConfigWithKeyError]
    if _DEFAULTS in config._load_defaults.__code__.co_consts:
        bodies.append(ConfigWithDefaults)
    for body in bodies:
        patch_class(undo, config, body)


def _is_fixed() -> bool:
    upstream = _class()

    # A subclass, because __init__ reads config-defaults.yaml in the current
    # folder: not for a trial.
    kind: Any = type("Config", (upstream,), {"_load_defaults": lambda self: None})
    config = kind()
    config.__dict__["_items"]["key"] = {"nested": 1}
    config.__dict__["_settings"] = config.__dict__["_callback"] = secret = object()
    # First, because where this fails the rest would end in a recursion, which takes
    # longer than putting on all patches.
    if any(isinstance(part, dict) and secret in part.values() for part in config.__reduce_ex__(2)):
        return False
    if hasattr(upstream.__new__(upstream), "_items"):
        return False
    for twin in (copy.copy(config), copy.deepcopy(config)):
        if dict(twin) != {"key": {"nested": 1}} or secret in vars(twin).values():
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
