from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from typing_extensions import override
import wandb


def _get_global(name: str) -> object:
    """Return the current value of a global of the `wandb` module."""
    return cast("object", getattr(wandb, name))


class PreInitObject:
    @override
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        # It stands for the current `wandb.config` or `wandb.summary`.
        return _get_global, (self._name.rpartition(".")[2],)


def PreInitCallable(  # noqa: N802
    name: str, destination: Any | None = None
) -> Callable:
    def preinit_wrapper(*args: Any, **kwargs: Any) -> Any:
        raise wandb.Error(f"You must call wandb.init() before {name}()")

    preinit_wrapper.__name__ = str(name)
    # pickle looks functions up by these, and cannot find a nested function.
    preinit_wrapper.__module__ = "wandb"
    preinit_wrapper.__qualname__ = str(name).rpartition(".")[2]
    if destination:
        preinit_wrapper.__wrapped__ = destination  # type: ignore
        preinit_wrapper.__doc__ = destination.__doc__
    return preinit_wrapper
