"""What wandb's own modules can have by themselves where the runtime does it otherwise.

Only ``export-diff`` uses this. For the run, grafts/run.py does more, with code that
runs in workers; for torch, grafts/torch.py does the same, with our import hook.
"""

from __future__ import annotations

import uuid
import weakref
from typing import Any

# Runs of this process and of those that it is forked from, by what their pickles say.
_pickled_runs: dict[str, weakref.ref[Any]] = {}


def _load_run(run_class: Any, key: str, state: Any) -> Any:
    """Return the run that was pickled, or one that attaches to it elsewhere."""
    known = _pickled_runs.get(key)
    run = known() if known else None
    if run is None:
        run = run_class.__new__(run_class)
        run.__setstate__(state)
    return run


class Run:
    """What wandb.sdk.wandb_run.Run should have had."""

    def __reduce__(self) -> Any:
        # A copy of a run in its own process is that run: there is but one.
        key = self.__dict__.setdefault("_pickle_key", uuid.uuid4().hex)
        _pickled_runs[key] = weakref.ref(self)
        return _load_run, (type(self), key, self.__getstate__())


TORCH = '''
def _trust_configs(torch) -> None:
    """Let torch.load, by default (weights_only), read a checkpoint that holds a config."""
    if hasattr(torch.serialization, "add_safe_globals"):
        torch.serialization.add_safe_globals([Config])


# Once torch is imported; where it is already, at once.
register_post_import_hook(_trust_configs, "config", "torch")
'''
