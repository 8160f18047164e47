"""The name by which payloads of runs are loaded: kept as it is since 0.1.0.

A payload that one release of this package has written is loaded by any other.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple

from .handover import fork  # noqa: F401  (from now on, this process has runs)
from .handover import payload as payloads


def reduce_run(run: Any) -> Tuple[Any, Tuple[Dict[str, Any]]]:
    """Reduce a run to its payload, for pickle: see handover/payload.py."""
    return load_run, (payloads.dump(run),)


def load_run(payload: Dict[str, Any]) -> Any:
    """Find or make the run that a payload stands for."""
    return payloads.load(payload)
