"""What the forkserver of forks.py imports, for all probes."""

from . import forks

forks.import_what_probes_need()
