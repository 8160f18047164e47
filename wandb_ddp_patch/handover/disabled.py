"""A disabled run in a process that has not made it: one that wandb makes there."""

from __future__ import annotations

import importlib
from typing import Any, Dict

from ..runs import state
from ..runs.dispatch import metadata_properties


def load_disabled(payload: Dict[str, Any]) -> Any:
    """Have wandb make a disabled run, and give it what the payload knows."""
    run = _made_by_wandb()
    fields = vars(payload["config"])
    run.config.__dict__.update(
        {k: v for k, v in fields.items() if not k.endswith(("callback", "_settings"))}
    )
    run.summary.update(payload["summary"])
    # Not a link of its own: it stands for another one.
    state.bind(run, state.OwnerState(payload["key"], payload["metadata"]))
    # Not setattr: RunDisabled takes that for an item.
    cls: Any = run.__class__
    twin: type = type(cls.__name__, (cls,), metadata_properties(cls))
    object.__setattr__(run, "__class__", twin)
    return run


def _made_by_wandb() -> Any:
    import wandb

    setup: Any = importlib.import_module("wandb.sdk.wandb_setup")
    singleton = getattr(getattr(setup, "_WandbSetup", None), "_instance", None)
    before = dict(vars(wandb))
    wandb.run = None  # else some releases would return or finish it
    try:
        return wandb.init(mode="disabled")
    finally:
        # Loading must change nothing: neither what wandb.log does, nor what the
        # next wandb.init() starts with (up to 0.18, disabled means no service).
        vars(wandb).update({k: v for k, v in before.items() if vars(wandb).get(k) is not v})
        if hasattr(setup, "_WandbSetup"):
            setup._WandbSetup._instance = singleton
