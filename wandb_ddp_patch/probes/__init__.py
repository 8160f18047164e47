"""Probes: functions that do what breaks, and what runs them.

To add one, write a function in a file of ``catalogue/``; its neighbours show how.
It is built from what ``offline.py`` (a run) and ``workers.py`` (other processes)
offer. ``python -m wandb_ddp_patch.probes NAME`` runs one here; :func:`run_all`
runs them in processes of their own, with a time limit.
"""

from .catalogue import PROBES
from .interpreter import environment
from .runner import again, run, run_all, stop
from .verdict import Verdict, last_line

__all__ = ["PROBES", "Verdict", "again", "environment", "last_line", "run", "run_all", "stop"]
