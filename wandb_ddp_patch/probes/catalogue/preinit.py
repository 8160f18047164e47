"""wandb.config, wandb.log and the like before ``wandb.init()``."""

from __future__ import annotations

import pickle
from typing import Any

from ..multiprocess import in_worker
from ..offline_run import offline_run
from ..registry import check, probe


@probe(fails=r"differs|PreInitCallable\.<locals>|not the same object")
def preinit() -> None:
    """wandb.config, wandb.summary and wandb.log can be sent to a worker before wandb.init()."""
    import wandb

    for name in ("config", "summary", "log"):
        thing = getattr(wandb, name)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            check(pickle.loads(pickle.dumps(thing, protocol)) is thing, f"{name} differs")
        check(in_worker(_is_current, name, thing), f"{name} is not the worker's")
    held = wandb.config, wandb.log
    early = pickle.dumps(held)
    with offline_run() as run:
        # Most scripts get hold of them before it, and pickle them after it, for a worker.
        for config, log in (pickle.loads(early), pickle.loads(pickle.dumps(held))):
            check(config is run.config, "wandb.config is not the current one")
            check(log.__self__ is run, "wandb.log is not the current one")
    check(pickle.loads(pickle.dumps(wandb.log)) is wandb.log, "after finish, log differs")


def _is_current(name: str, thing: Any) -> bool:
    import wandb

    return thing is getattr(wandb, name)
