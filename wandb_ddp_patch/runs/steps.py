"""Steps that a worker gives to log(): kept as a value, because wandb would drop rows.

A run has one count of steps, for all its processes: a row whose step is not beyond the
last one is ignored, whoever has logged that. W&B's guide for such rows is an axis of
their own: https://docs.wandb.ai/guides/track/log/customize-logging-axes
"""

from __future__ import annotations

from typing import Any, Dict, Tuple

from .. import _lifecycle

KEY = "custom_step"


def step_as_value(args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Tuple[Any, Dict[str, Any]]:
    """Turn the step that log() is given into a value of its row.

    Args:
        args: What it is given by position: data, step, and what follows.
        kwargs: What it is given by name.
    """
    step = kwargs.get("step", args[1] if len(args) > 1 else None)
    data = kwargs.get("data", args[0] if args else None)
    if step is None or not isinstance(data, dict):
        return args, kwargs
    _say_once()
    row = {KEY: step, **data}
    kwargs = {key: val for key, val in kwargs.items() if key not in ("data", "step")}
    return (row, None, *args[2:]), kwargs


def _say_once() -> None:
    _lifecycle.termwarn(
        f"Steps that a worker gives to log() are kept as values, named {KEY}: wandb would ignore"
        " rows whose step another process has passed. To draw charts over them, call"
        f' define_metric("*", step_metric="{KEY}") once.',
        repeat=False,
    )
