"""``export-diff``: the grafts' own source, put into the classes of a wandb source tree.

What the runtime copies onto upstream's classes is here spliced into their text:
methods that a class has are replaced, others follow its last one, and helpers and
imports that they name come with them. ruff gives it upstream's style.
"""

from .splices import NEEDS_WORKER_CODE, SPLICES
from .whole import applied, changed, diff

__all__ = ["NEEDS_WORKER_CODE", "SPLICES", "applied", "changed", "diff"]
