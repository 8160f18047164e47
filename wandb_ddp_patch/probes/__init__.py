"""Probes: functions that each reproduce one failure of wandb, and what runs them.

To add one, write a function in a file of ``catalogue/``; its neighbours show how. It is
built from ``offline_run.py`` (a run) and ``multiprocess.py`` (other processes).
``python -m wandb_ddp_patch.probes NAME`` runs one; :func:`run_all` runs many, in processes of
their own, with a time limit.
"""

from .catalogue import PROBES
from .interpreter import environment
from .runner import again, run, run_all, stop
from .verdict import Verdict, last_line

__all__ = ["PROBES", "Verdict", "again", "environment", "last_line", "run", "run_all", "stop"]
