"""torch.load's default, weights_only, reads a checkpoint that holds a config.

It makes only objects of classes that are registered with it (torch 2.4 on;
https://docs.pytorch.org/docs/stable/notes/serialization.html). wandb issue 5062.
"""

from __future__ import annotations

import sys
from typing import Any, List

from .._graft import Graft, Undo, upstream_class

_CONFIG = "wandb.sdk.wandb_config"


def _serialization() -> Any:
    return sys.modules["torch"].serialization


def _install(undo: List[Undo]) -> None:
    config, torch = upstream_class(_CONFIG, "Config"), _serialization()
    torch.add_safe_globals([config])

    def take_off() -> None:
        others = [kept for kept in torch.get_safe_globals() if kept is not config]
        torch.clear_safe_globals()
        torch.add_safe_globals(others)

    undo.append(take_off)


def _works() -> bool:
    torch = _serialization()
    if not hasattr(torch, "add_safe_globals"):
        return True
    return upstream_class(_CONFIG, "Config") in torch.get_safe_globals()


GRAFTS = [
    Graft(
        modules=("torch", _CONFIG),
        name="serialization",
        install=_install,
        works=_works,
        why="torch.load reads a checkpoint that holds a config (issue 5062)",
        since="0.10.23 or earlier",
    )
]
