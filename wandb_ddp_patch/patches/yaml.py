"""PyYAML writes a config, or a summary, as the plain mapping that it shows.

Without this, yaml.safe_dump raises, and yaml.dump writes Python's own form of the
object, wandb's telemetry included, which none but an unsafe loader reads.
"""

from __future__ import annotations

import sys
from typing import Any, Iterator, List

from .._patching import Patch, Undo, require_class

_CLASSES = (
    ("wandb.sdk.wandb_config", "Config"),
    ("wandb.sdk.wandb_summary", "SummaryDict"),
    ("wandb.sdk.lib.disabled", "SummaryDisabled"),
)


def _represent(dumper: Any, mapping: Any) -> Any:
    # As this dumper writes a dict: a user may have said how.
    return dumper.yaml_representers[dict](dumper, dict(mapping))


def _safe() -> Any:
    return sys.modules["yaml"].representer.SafeRepresenter


def _tables() -> Iterator[Any]:
    """Give each table of representers: a dumper has one of its own, or its base's."""
    todo, seen = [_safe()], set()
    while todo:
        kind = todo.pop()
        if kind not in seen:
            seen.add(kind)
            todo += kind.__subclasses__()
            if "yaml_multi_representers" in vars(kind):
                yield kind.yaml_multi_representers


def _install(undo: List[Undo]) -> None:
    safe = _safe()
    if "yaml_multi_representers" not in vars(safe):
        # As add_multi_representer does: the base's table is not the safe dumper's.
        safe.yaml_multi_representers = safe.yaml_multi_representers.copy()
        undo.append(_give_back)
    undo.append(_take_off)
    for home, name in _CLASSES:
        for table in _tables():
            table.setdefault(require_class(home, name), _represent)


def _take_off() -> None:
    # From copies too, which dumpers have made since.
    for table in _tables():
        for owner in [owner for owner, how in table.items() if how is _represent]:
            del table[owner]


def _give_back() -> None:
    safe = _safe()
    if safe.yaml_multi_representers == safe.__mro__[1].yaml_multi_representers:
        del safe.yaml_multi_representers


def _is_fixed() -> bool:
    if not hasattr(sys.modules["yaml"], "SafeDumper"):
        return True  # another yaml than PyYAML
    safe = _safe()
    owners = [require_class(home, name) for home, name in _CLASSES]
    return "yaml_multi_representers" in vars(safe) and all(
        owner in table for owner in owners for table in _tables()
    )


PATCHES = [
    Patch(
        modules=("yaml", *(home for home, _ in _CLASSES)),
        name="SafeRepresenter",
        install=_install,
        is_fixed=_is_fixed,
        why="yaml writes a config or a summary as a plain mapping, which safe_load reads",
        since="0.10.23 or earlier",
    )
]
