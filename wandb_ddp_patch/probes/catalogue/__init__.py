"""The catalogue of what breaks: a function for each failure, a file for each subject.

Each does what a user does, on the wandb that is installed, in offline mode and with real
processes. It passes where wandb behaves as it should; most fail without the patches
(``WANDB_DDP_PATCH=0``).
"""

import importlib

from ..registry import PROBES

__all__ = ["PROBES"]

# Importing a file registers its probes. Tables show them in this order.
SUBJECTS = (
    "config",
    "config_kinds",
    "config_files",
    "run",
    "run_rows",
    "run_handover",
    "run_without_service",
    "summary",
    "preinit",
    "module",
    "watch",
    "media",
)

for _subject in SUBJECTS:
    importlib.import_module(f"{__name__}.{_subject}")
