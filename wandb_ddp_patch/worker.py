"""The name by which payloads of runs are loaded: it never changes, because pickles hold it.

What is in a payload, and its format's number, is in runs/payload_format.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Tuple

from .handover import fork  # noqa: F401  (its import registers the fork hooks)
from .handover import payload as payloads

if TYPE_CHECKING:
    from .runs.payload_format import Payload


def reduce_run(run: Any) -> Tuple[Any, Tuple[Payload]]:
    """Reduce a run to its payload, for pickle: see handover/payload.py."""
    return load_run, (payloads.dump(run),)


def load_run(payload: Payload) -> Any:
    """Find or make the run that a payload stands for."""
    return payloads.load(payload)
