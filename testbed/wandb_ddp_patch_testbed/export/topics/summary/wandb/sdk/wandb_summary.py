from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

from typing_extensions import override

from .interface.summary_record import SummaryRecord
from .lib.missing_key_error import MissingKeyError


class SummaryDict:
    def __getattr__(self, key: str) -> Any:
        # Special methods are not looked for in the summary: that may need a
        # request to the service, or attributes that `__init__` has yet to set.
        if key.startswith("__") and key.endswith("__"):
            raise AttributeError(f"{self.__class__!r} has no attribute {key!r}")

        try:
            return self[key]
        except KeyError as e:
            raise MissingKeyError(key) from e

    def __copy__(self) -> SummarySnapshot:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, object]) -> SummarySnapshot:
        """Return a snapshot, which has no run."""
        items = cast("dict[str, object]", self._as_dict())
        return SummarySnapshot(copy.deepcopy(items, memo))


class SummarySnapshot(SummaryDict):
    """A copy of a summary.

    Changes to it stay in it.
    """

    _items: dict[str, object]

    def __init__(self, items: dict[str, object]) -> None:
        object.__setattr__(self, "_items", items)

    @override
    def _as_dict(self) -> dict[str, object]:
        return self._items

    @override
    def _update(self, record: SummaryRecord) -> None:
        for item in record.update:
            self._parent_of(item.key)[item.key[-1]] = item.value
        for item in record.remove:
            _ = self._parent_of(item.key).pop(item.key[-1], None)

    def _parent_of(self, path: Sequence[str]) -> dict[str, object]:
        items = self._items
        for key in path[:-1]:
            items = cast("dict[str, object]", items[key])
        return items
