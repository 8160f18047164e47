"""Artifact, and media that refer to one: pickle refuses the clients in it (since 0.10.23).

An artifact holds what talks to the server: until 0.21 its storage policy has an ``Api`` with
locks and ``os.environ`` in it, which pickle and deepcopy refuse
(https://github.com/Lightning-AI/pytorch-lightning/issues/6869). Once it has been logged
online, it also has a client, with the API key, and a handle of the upload, up to 0.31.0.
Until 0.12 it has such an ``Api`` itself.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

from .._patching import Patch, patch_class, require_class, throwaway_subclass


class WandbStoragePolicy:
    """What wandb's WandbStoragePolicy should have had."""

    def __reduce__(self):
        # A new one is as good: every new artifact makes one from its config.
        return type(self), (self.config(),)

    def __copy__(self):
        # By default, copy would call __reduce__, and so make another connection.
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied


class Artifact:
    """What wandb.sdk.artifacts.artifact.Artifact should have had."""

    def __getstate__(self):
        state = dict(self.__dict__)
        for name in ("_save_handle", "_save_future"):
            if name in state:
                state[name] = None  # only the process that uploads it can wait for the upload
        for name in ("_client", "_service_api"):
            if state.get(name) is not None:
                del state[name]  # __getattr__ makes a new one
        return state

    def __getattr__(self, name):
        if name == "_client":
            from wandb.apis.public import Api

            self._client = Api().client
            return self._client
        if name == "_service_api":
            self._service_api = None
            return self._get_service_api()
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __copy__(self):
        # By default, copy would call __getstate__, and the copy could not wait for the upload.
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied


class Api:
    """What wandb.apis.internal.Api, a proxy of the real one, should have had until 0.12."""

    def __reduce__(self):
        return type(self), ()  # its arguments are settings, which stay in their process


_API = "wandb.apis.internal"
_POLICY = "wandb.sdk.artifacts.storage_policies.wandb_storage_policy"
_ARTIFACT = "wandb.sdk.artifacts.artifact"


def _policy_class() -> Any:
    return require_class(_POLICY, "WandbStoragePolicy", ("config",))


def _is_policy_fixed() -> bool:
    # Without wandb's own __init__, which takes tens of milliseconds.
    subclass = throwaway_subclass(_policy_class())
    subclass.__init__, subclass.config = (lambda self, config: None), (lambda self: {})
    return _copies_with_locks(subclass({}), "_api")


def _artifact_class() -> Any:
    return require_class(_ARTIFACT, "Artifact")


def _is_artifact_fixed() -> bool:
    subclass = throwaway_subclass(_artifact_class())
    names = "_client", "_service_api", "_save_handle", "_save_future"
    return _copies_with_locks(subclass.__new__(subclass), *names)


def _api_class() -> Any:
    return require_class(_API, "Api")


def _is_api_fixed() -> bool:
    subclass = throwaway_subclass(_api_class())
    subclass.__init__ = lambda self: None
    return _copies_with_locks(subclass(), "_api")


def _copies_with_locks(instance: Any, *names: str) -> bool:
    """Return True if an object can be copied whose attributes of these names can't; or raise."""
    vars(instance).update(dict.fromkeys(names, threading.Lock()))
    copy.deepcopy(instance)
    return True


# All are optional: old releases have an artifact's classes in another module, and lack only
# the first; later ones have no such Api.
PATCHES = [
    Patch(
        modules=(_API,),
        name="Api",
        install=lambda undo: patch_class(undo, _api_class(), Api),
        is_fixed=_is_api_fixed,
        why="an artifact can be copied, pickled and sent to a worker",
        since="0.10.23 or earlier, to 0.12.21",
        optional=True,
    ),
    Patch(
        modules=(_POLICY,),
        name="WandbStoragePolicy",
        install=lambda undo: patch_class(undo, _policy_class(), WandbStoragePolicy),
        is_fixed=_is_policy_fixed,
        why="an artifact, and a table or plot that was logged, can be copied, pickled and"
        " sent to a worker",
        since="0.16.0, to 0.21.4",
        optional=True,
    ),
    Patch(
        modules=(_ARTIFACT,),
        name="Artifact",
        install=lambda undo: patch_class(undo, _artifact_class(), Artifact),
        is_fixed=_is_artifact_fixed,
        why="the same for an artifact that was logged online, without the API key in it",
        since="0.16.0",
        optional=True,
    ),
]
