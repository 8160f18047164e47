"""Summary: hasattr raises KeyError, and so copy and pickle fail (issue 2007; since 0.10.23).

``__getattr__ = __getitem__`` in wandb's SummaryDict is the bug of
https://github.com/wandb/wandb/issues/2007 word for word, up to 0.31.0:
``hasattr(run.summary, "x")`` raises KeyError, and copy and pickle, which ask for dunder
names, fail with it.

With the patch, a pickled summary is the run's own wherever it is loaded, and a copied one
is a snapshot.
"""

from __future__ import annotations

import copy
import operator
from typing import Any, List

from .._patching import Patch, Undo, patch_class, require_class, throwaway_subclass
from ._errors import MissingNameError


class SummaryDict:
    """What wandb.sdk.wandb_summary.SummaryDict should have had."""

    def __getattr__(self, key):
        # Those in _INSTANCE_ATTRIBUTES get here only where the instance has none yet, as copy
        # and pickle make it: self[key] would ask _as_dict, which needs them, and recurse.
        if key[:2] == "__" == key[-2:] or key in self._INSTANCE_ATTRIBUTES:
            raise AttributeError(f"{self.__class__!r} object has no attribute {key!r}")
        try:
            return self[key]
        except KeyError as ke:
            raise MissingNameError(key) from ke

    _INSTANCE_ATTRIBUTES = (
        "_get_current_summary_callback",
        "_update_callback",
        "_items",
        "_parent",
        "_parent_key",
    )

    def __copy__(self):
        return self.__deepcopy__({})

    def __deepcopy__(self, memo):
        return self._detached(copy.deepcopy(dict(self._as_dict()), memo))

    def _apply(self, record):
        """Apply the changes of a SummaryRecord to a snapshot's own items."""

        def parent_and_key(item):
            *path, key = item.key
            parent = self._items
            for name in path:
                parent = parent.setdefault(name, {})
            return parent, key

        for item in record.update:
            parent, key = parent_and_key(item)
            parent[key] = item.value
        for item in record.remove:
            parent, key = parent_and_key(item)
            parent.pop(key, None)


class Summary:
    """What wandb.sdk.wandb_summary.Summary should have had.

    One that has ``_items`` is a snapshot; the callbacks of any other are bound methods of
    its run.
    """

    @classmethod
    def _detached(cls, items):
        summary = cls(None)
        summary.__dict__["_items"] = items
        return summary

    @classmethod
    def _of_run(cls, run, items):
        summary = run.__dict__.get("summary")
        if not isinstance(summary, cls):
            # The run has not attached to its service yet: these callbacks make it do so.
            summary = cls(run._summary_get_current_summary_callback)
            summary._set_update_callback(run._summary_update_callback)
            summary.__dict__["_last_known"] = items
        return summary

    def __reduce__(self):
        run = getattr(self._get_current_summary_callback, "__self__", None)
        if run is None:
            return self._detached, (dict(self._as_dict()),)
        return self._of_run, (run, dict(self._as_dict()))

    def _as_dict(self):
        if "_items" in self.__dict__:
            return self._items
        try:
            items = self._get_current_summary_callback()
        except Exception:
            # The run can't be reached. What was known when the summary was pickled can still
            # be read.
            if "_last_known" in self.__dict__:
                return self.__dict__["_last_known"]
            raise
        # Once the run has answered, stale items must not hide that it has become unreachable.
        self.__dict__.pop("_last_known", None)
        return items

    def _update(self, record):
        if "_items" in self.__dict__:
            self._apply(record)
        elif self._update_callback:
            self._update_callback(record)


class SummarySubDict:
    """What wandb.sdk.wandb_summary.SummarySubDict should have had.

    One that has no ``_parent`` is a snapshot.
    """

    @classmethod
    def _detached(cls, items):
        sub = cls()
        sub.__dict__["_items"] = items
        return sub

    def __reduce__(self):
        if self._parent is None:
            return self._detached, (dict(self._items),)
        return operator.getitem, (self._parent, self._parent_key)

    def _update(self, record):
        if self._parent is None:
            return self._apply(record)
        return self._parent._update(record._add_next_parent(self._parent_key))


class SummaryDisabled:
    """What wandb.sdk.lib.disabled.SummaryDisabled (a dict) should have had."""

    def __getattr__(self, key):
        if key[:2] == "__" == key[-2:]:
            raise AttributeError(f"{self.__class__!r} object has no attribute {key!r}")
        try:
            return self[key]
        except KeyError as ke:
            raise MissingNameError(key) from ke


_MODULE = "wandb.sdk.wandb_summary"
_CALLBACKS = ("__getitem__", "_as_dict", "_update")


def _install(undo: List[Undo]) -> None:
    for body in (SummaryDict, Summary, SummarySubDict):
        patch_class(undo, require_class(_MODULE, body.__name__, _CALLBACKS), body)


def _is_fixed() -> bool:
    live = {"nested": {"key": 1}}
    summary = throwaway_subclass(require_class(_MODULE, "Summary"))(lambda: live)
    copied = copy.deepcopy(summary)
    sub = copy.copy(copied["nested"])
    copied["nested"]["key"] = sub["key"] = 2
    return (
        not hasattr(summary, "missing")
        and live == {"nested": {"key": 1}}
        and copied._as_dict() == {"nested": {"key": 2}}
        and sub._as_dict() == {"key": 2}
    )


def _disabled_class() -> Any:
    return require_class("wandb.sdk.lib.disabled", "SummaryDisabled", ("__getitem__",))


def _is_disabled_fixed() -> bool:
    summary = throwaway_subclass(_disabled_class())(nested={"key": 1})
    return not hasattr(summary, "missing") and copy.deepcopy(summary).nested.key == 1


PATCHES = [
    Patch(
        modules=(_MODULE,),
        name="Summary",
        install=_install,
        is_fixed=_is_fixed,
        why="hasattr works on a summary; it can be copied, pickled and sent to a worker"
        " (issue 2007)",
        since="0.10.23 or earlier",
    ),
    Patch(
        modules=("wandb.sdk.lib.disabled",),
        name="SummaryDisabled",
        install=lambda undo: patch_class(undo, _disabled_class(), SummaryDisabled),
        is_fixed=_is_disabled_fixed,
        why="the same for the summary of a disabled run (issue 2007)",
        since="0.10.23 or earlier",
    ),
]
