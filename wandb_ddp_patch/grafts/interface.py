"""What a run sends to its service: attaching, which services did not answer offline."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, List

from .._graft import Graft, Undo, around, put_members, upstream_class


class InterfaceBase:
    """What wandb.sdk.interface.interface.InterfaceBase lacked until 0.15.4."""

    @around
    def deliver_attach(upstream, self, *args, **kwargs):
        # Late: importing wandb must stay quick, and most releases lack nothing.
        from ..borrowed import link, releases
        from ..borrowed.facts import facts

        # A run that attaches by its id was handed over by nobody who knew more.
        known = link.of(self._run).known or facts(self._run)
        answer = releases.offline_answer(known)
        if answer is None:
            return upstream(self, *args, **kwargs)
        return SimpleNamespace(wait=lambda **_: answer)


_MODULE = "wandb.sdk.interface.interface"


def _install(undo: List[Undo]) -> None:
    put_members(undo, upstream_class(_MODULE, "InterfaceBase"), InterfaceBase)


def _works() -> bool:
    interface: Any = getattr(sys.modules[_MODULE], "InterfaceBase", None)
    # Later interfaces don't know their run: those services answer.
    asks = hasattr(interface, "deliver_attach") and hasattr(interface, "_hack_set_run")
    return not asks or hasattr(interface.deliver_attach, "__wrapped__")


GRAFTS = [
    Graft(
        modules=(_MODULE,),
        name="InterfaceBase",
        install=_install,
        works=_works,
        why="a run attaches in a worker in offline mode, too",
        since="0.13.0 to 0.15.3",
        optional=True,
    ),
]
