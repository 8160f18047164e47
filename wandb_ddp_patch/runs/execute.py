"""Makes a call that a worker has sent, in the process that owns its run."""

from __future__ import annotations

import pickle
import threading
from typing import Any, Dict, Tuple

from .. import _lifecycle
from ..errors import NotSerializableError

# Held while a row is put together, for the owner or for a worker, in releases whose runs
# do that (to 0.12.9); and the rows that this thread has put together meanwhile, where to
# send them may take long.
history_lock = threading.RLock()
deferred_rows = threading.local()


def execute(run: Any, name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    """Make a call on a run of this process.

    Raises:
        NotSerializableError: What was asked for is an object of the run's own.
        Exception: What the call raises.
    """
    if name == "_config_callback":  # of the owner's config, which then makes its own
        return _update_config(run.config, *args, **kwargs)
    result = getattr(run, name)(*args, **kwargs)
    if name == "__getattribute__" and not is_json_like(result):
        raise NotSerializableError
    return result


def _update_config(config: Any, key: Any = None, val: Any = None, data: Any = None) -> Any:
    return config.update({key: val} if key else data, allow_val_change=True)


def is_json_like(value: object) -> bool:
    """Return True if a value is made of numbers, strings, lists and dicts only."""
    if isinstance(value, dict):
        return all(map(is_json_like, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_json_like, value))
    return value is None or isinstance(value, (str, int, float, bool))


def picklable_error(error: BaseException) -> Exception:
    """Return an error that can be sent: this one, if it can be, else one with its text."""
    try:
        if isinstance(error, Exception) and type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


@_lifecycle.in_forked_child(_lifecycle.ForkStage.RENEW_LOCKS)
def after_fork_in_child() -> None:
    """Make a new lock: another thread of the parent may have held it."""
    global history_lock
    history_lock = threading.RLock()
