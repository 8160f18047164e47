"""What became of each patch, for status() and doctor: not loaded before somebody asks."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import Iterator, List

from . import _registry
from ._patching import Patch


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


def _switched_on() -> Iterator[Patch]:
    # Not loaded where nobody has asked for it.
    unchanged = sys.modules.get(f"{__package__}.forkserver.unchanged.start_processes")
    if unchanged is not None:
        yield unchanged.PATCH


def status(enabled: bool, late: bool = False) -> List[Status]:
    """Say what became of each patch; and that nothing was patched till now, where that is so."""
    if enabled and late:
        warnings.warn(
            "wandb_ddp_patch has run only now, after wandb: its import is a lazy one. Name it"
            " at the top of the script, as wandb_ddp_patch.apply()",
            RuntimeWarning,
            stacklevel=3,
        )
    return [
        Status(
            patch.target,
            patch.state if enabled or patch.state == "applied" else "off",
            patch.reason if patch.state == "skipped" else patch.why,
            patch.since,
        )
        for patch in (*_registry.patches(), *_switched_on())
    ]
