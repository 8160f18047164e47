from __future__ import annotations

import os
import uuid
from weakref import WeakValueDictionary

from typing_extensions import Any, override

# Runs that were pickled and still exist, by a key in their pickles.
_pickled_runs: WeakValueDictionary[str, Run] = WeakValueDictionary()


def _unpickle_run(cls: type[Run], pid: int, key: str, state: object) -> Run:
    """Return the run that was pickled.

    In another process, this is a new object that attaches to the run.
    """
    # A forked process inherits the dictionary. It has to attach, too.
    run = _pickled_runs.get(key) if pid == os.getpid() else None

    if run is None:
        run = cls.__new__(cls)
        run.__setstate__(state)

    return run


class Run:
    _pickle_key: str | None = None

    @override
    def __reduce__(self) -> tuple[object, ...]:
        if self._pickle_key is None:
            self._pickle_key = uuid.uuid4().hex
        _pickled_runs[self._pickle_key] = self
        args = (type(self), os.getpid(), self._pickle_key)
        return _unpickle_run, (*args, self.__getstate__())

    def __setstate__(self, state: Any) -> None:
        """Set run state from a custom pickle."""
        if not state:
            return

        _attach_id = state.get("_attach_id")
        if not _attach_id:
            return

        self.__dict__.update(state)
