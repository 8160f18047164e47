"""InterfaceBase: the service does not answer a run that attaches offline (0.13.0 to 0.15.3)."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from .._patching import Patch, patch_class, require_class, wraps_original


class InterfaceBase:
    """What wandb.sdk.interface.interface.InterfaceBase lacked until 0.15.4."""

    @wraps_original
    def deliver_attach(original, self, *args, **kwargs):
        from ..runs import compat, state
        from ..runs.metadata import collect_metadata

        # A run that attaches by its id came without a payload, and so without metadata.
        metadata = state.get_state(self._run).metadata or collect_metadata(self._run)
        answer = compat.offline_answer(metadata)
        if answer is None:
            return original(self, *args, **kwargs)
        return SimpleNamespace(wait=lambda **_: answer)


_MODULE = "wandb.sdk.interface.interface"


def _is_fixed() -> bool:
    interface: Any = getattr(sys.modules[_MODULE], "InterfaceBase", None)
    # Interfaces without _hack_set_run, which don't know their run, are those of later
    # releases, whose services answer.
    has_fault = hasattr(interface, "deliver_attach") and hasattr(interface, "_hack_set_run")
    # __wrapped__: the patch is on. To see whether it works would take a service.
    return not has_fault or hasattr(interface.deliver_attach, "__wrapped__")


PATCHES = [
    Patch(
        modules=(_MODULE,),
        name="InterfaceBase",
        install=lambda undo: patch_class(
            undo, require_class(_MODULE, "InterfaceBase"), InterfaceBase
        ),
        is_fixed=_is_fixed,
        why="a run attaches in a worker in offline mode as well",
        since="0.13.0 to 0.15.3",
        optional=True,
    ),
]
