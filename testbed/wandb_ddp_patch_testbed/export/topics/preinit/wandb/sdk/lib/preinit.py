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


class PreInitCallable:
    """A function of the `wandb` module that has to wait for `wandb.init()`.

    It is an object because pickle looks functions up by name, and refuses those
    that are no longer what their name stands for.
    """

    def __init__(self, name: str, destination: Any | None = None) -> None:
        self._name = name
        self.__name__ = str(name)
        if destination:
            self.__wrapped__ = destination
            self.__doc__ = destination.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise wandb.Error(f"You must call wandb.init() before {self._name}()")

    @override
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        # It stands for the current `wandb.log`.
        return _get_global, (self._name.rpartition(".")[2],)
