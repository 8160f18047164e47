"""What of the grafts goes where in wandb's source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

from ...grafts import config, preinit, summary
from .. import standalone

# Probes that need more than classes by themselves: a worker's end, a relay, spawn().
NEEDS_WORKER_CODE = (
    "they need code that runs in a worker and at its end, or in the owner for it, or once torch"
    " or yaml is imported, which is more than a class by itself can have: see borrowed/,"
    " spawning/ and grafts/"
)


@dataclass(frozen=True)
class Splice:
    """One graft and where its source goes.

    Attributes:
        file: The file in the source tree.
        target: The class, or the function that becomes one, in it.
        body: The graft's class.
        needs: Members without which the class is not the one that the graft fits.
    """

    file: str
    target: str
    body: type
    needs: Tuple[str, ...] = ()


CONFIG = "wandb/sdk/wandb_config.py"
_SUMMARY = "wandb/sdk/wandb_summary.py"
DISABLED = "wandb/sdk/lib/disabled.py"
_PREINIT = "wandb/sdk/lib/preinit.py"
_RUN = "wandb/sdk/wandb_run.py"
HOOKS = "wandb/sdk/lib/import_hooks.py"

SPLICES = (
    Splice(CONFIG, "Config", config.Config, ("__getitem__", "__getattr__", "_load_defaults")),
    Splice(_SUMMARY, "SummaryDict", summary.SummaryDict, ("__getitem__", "_as_dict", "_update")),
    Splice(_SUMMARY, "Summary", summary.Summary, ("_as_dict", "_set_update_callback")),
    Splice(_SUMMARY, "SummarySubDict", summary.SummarySubDict, ("_as_dict", "_update")),
    Splice(DISABLED, "SummaryDisabled", summary.SummaryDisabled, ("__getitem__",)),
    Splice(_PREINIT, "PreInitObject", preinit.PreInitObject, ("__getattr__",)),
    Splice(_PREINIT, "PreInitCallable", preinit.PreInitCallable),
    Splice(_RUN, "Run", standalone.Run, ("__getstate__", "__setstate__")),
)

# Helpers that more than one file needs, and the file that has them.
HOMES = {"MissingNameError": _SUMMARY}
