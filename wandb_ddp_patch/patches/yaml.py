"""PyYAML can't write a Config or Summary that safe_load reads (since 0.10.23).

yaml.safe_dump raises, and yaml.dump writes Python's own form of the object, wandb's
telemetry included, which only an unsafe loader reads. With the patch, both write a plain
mapping.
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
    # As this dumper writes a dict: a user may have registered a representer of his own.
    return dumper.yaml_representers[dict](dumper, dict(mapping))


def _safe_representer() -> Any:
    return sys.modules["yaml"].representer.SafeRepresenter


def _tables() -> Iterator[Any]:
    """Yield each table of representers: a dumper has one of its own, or uses its base's."""
    todo, seen = [_safe_representer()], set()
    while todo:
        cls = todo.pop()
        if cls not in seen:
            seen.add(cls)
            todo += cls.__subclasses__()
            if "yaml_multi_representers" in vars(cls):
                yield cls.yaml_multi_representers


def _install(undo: List[Undo]) -> None:
    safe = _safe_representer()
    if "yaml_multi_representers" not in vars(safe):
        # As add_multi_representer() does: until then it uses its base's table, where ours would
        # reach dumpers that are not safe ones.
        safe.yaml_multi_representers = safe.yaml_multi_representers.copy()
        undo.append(_remove_table)
    undo.append(_unregister)
    for module, name in _CLASSES:
        for table in _tables():
            table.setdefault(require_class(module, name), _represent)


def _unregister() -> None:
    # Not only from those where it was registered: dumpers have copied tables since.
    for table in _tables():
        for cls in [cls for cls, represent in table.items() if represent is _represent]:
            del table[cls]


def _remove_table() -> None:
    safe = _safe_representer()
    if safe.yaml_multi_representers == safe.__mro__[1].yaml_multi_representers:
        del safe.yaml_multi_representers


def _is_fixed() -> bool:
    if not hasattr(sys.modules["yaml"], "SafeDumper"):
        return True  # another yaml than PyYAML
    safe = _safe_representer()
    classes = [require_class(module, name) for module, name in _CLASSES]
    return "yaml_multi_representers" in vars(safe) and all(
        cls in table for cls in classes for table in _tables()
    )


PATCHES = [
    Patch(
        modules=("yaml", *(module for module, _ in _CLASSES)),
        name="SafeRepresenter",
        install=_install,
        is_fixed=_is_fixed,
        why="yaml writes a config or a summary as a plain mapping, which safe_load reads",
        since="0.10.23 or earlier",
    )
]
