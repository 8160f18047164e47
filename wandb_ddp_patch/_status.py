"""What became of each patch, for status() and doctor. Not loaded before somebody asks."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import Iterator, List

from . import _registry
from ._patching import Patch, State


@dataclass(frozen=True)
class Status:
    """What became of one patch.

    Attributes:
        target: What it amends, as a dotted name.
        state: ``"applied"``, ``"waiting for import"``, ``"not needed"``
            (wandb does it by itself), ``"skipped"`` (it does not fit this
            wandb) or ``"off"``.
        why: What it is for; where skipped, what did not fit.
        since: The first wandb release with the fault, as far back as measured.
    """

    target: str
    state: str
    why: str
    since: str


def _spawn_patches() -> Iterator[Patch]:
    # That of torch's own spawn: not loaded where nobody has asked for it.
    unchanged = sys.modules.get(f"{__package__}.forkserver.unchanged.start_processes")
    if unchanged is not None:
        yield unchanged.PATCH


def status(enabled: bool, late: bool = False) -> List[Status]:
    """Return what became of each patch.

    Args:
        enabled: Whether this package is on; if not, what waits is shown as off.
        late: Whether a lazy import of this package has run only now, after wandb's, so that
            nothing was patched till now: a RuntimeWarning says so.
    """
    if enabled and late:
        warnings.warn(
            "wandb_ddp_patch was imported lazily, after wandb, so nothing was patched until now."
            " Call wandb_ddp_patch.apply() at the top of the script",
            RuntimeWarning,
            stacklevel=3,
        )
    return [_status_of(patch, enabled) for patch in (*_registry.patches(), *_spawn_patches())]


def _status_of(patch: Patch, enabled: bool) -> Status:
    # WANDB_DDP_PATCH may have been set to 0 only after the import: what is applied stays so.
    state = patch.state if enabled or patch.state is State.APPLIED else State.OFF
    why = patch.reason if patch.state is State.SKIPPED else patch.why
    return Status(patch.target, state.value, why, patch.since)
