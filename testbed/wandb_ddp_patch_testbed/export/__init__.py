"""``export-diff`` and ``export-pr``: what wandb's own classes could do, as pull requests.

Each topic's source, written as wandb would write it, is laid over the files of a source
tree, with its tests and its line in the change log. What has to be otherwise at run time,
for speed or for old releases, is in ``patches/``; both pass the same probes.
"""

from .pull_request import export
from .topics import TOPICS
from .tree_diff import applied, as_diff, change, diff

# Probes that need more than classes by themselves: a worker's end, a relay, spawn().
NEEDS_WORKER_CODE = (
    "they need code that runs in a worker and at its end, or in the owner for it, or once torch"
    " or yaml is imported, which is more than a class by itself can have: see runs/,"
    " forkserver/ and patches/"
)

__all__ = ["NEEDS_WORKER_CODE", "TOPICS", "applied", "as_diff", "change", "diff", "export"]
