"""RunDisabled: pickle gets nonsense from a disabled run (issue 4458; 0.10.23 to 0.17.5).

What wandb.init(mode="disabled") returns is there a str that answers any name with another
such object. Since then it is a NoopRun, or a Run with local functions.
"""

from __future__ import annotations

import copy
import sys

from .._patching import Patch, patch_class, require_class, throwaway_subclass, wraps_original


class RunDisabled:
    """What wandb.sdk.lib.disabled.RunDisabled should have had."""

    @wraps_original
    def __init__(original, self, *args, **kwargs):
        from ..runs.state import ensure_owner_state

        original(self, *args, **kwargs)
        ensure_owner_state(self)

    def __reduce__(self):
        from ..worker import reduce_run

        return reduce_run(self)

    def __deepcopy__(self, memo):
        return self


_MODULE = "wandb.sdk.lib.disabled"


def _is_fixed() -> bool:
    run_disabled = getattr(sys.modules[_MODULE], "RunDisabled", None)
    if run_disabled is None or not issubclass(run_disabled, str):
        return True  # gone, or a name kept for isinstance: there are no instances
    run = throwaway_subclass(run_disabled)()
    run.config = run.summary = {}
    return copy.copy(run) is run


PATCHES = [
    Patch(
        modules=(_MODULE,),
        name="RunDisabled",
        install=lambda undo: patch_class(undo, require_class(_MODULE, "RunDisabled"), RunDisabled),
        is_fixed=_is_fixed,
        why="a disabled run can be copied, pickled and sent to a worker (issue 4458)",
        since="0.10.23 or earlier, to 0.17.5",
        optional=True,
    )
]
