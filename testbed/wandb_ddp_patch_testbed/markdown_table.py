"""The report's first table, between two marks in a Markdown file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Tuple

from wandb_ddp_patch.errors import CommandError

from . import report, source_trees

_MARK = "<!-- matrix -->\n"


def fill(readme: Path, data: Dict[str, Any]) -> None:
    """Put the table of a report where that of another one is.

    Raises:
        Failure: The file has no such place.
    """
    before, after = around(readme)
    table = report.markdown(data, details=False).strip()
    readme.write_text(f"{before}{table}\n{after}", "utf-8")


def around(readme: Path) -> Tuple[str, str]:
    """Give what stands before the table, and what after it, marks included.

    Raises:
        Failure: The file has no such place.
    """
    parts = source_trees.read(readme).split(_MARK)
    if len(parts) != 3:
        raise CommandError(f"{readme}: no two lines <!-- matrix -->")
    return parts[0] + _MARK, _MARK + parts[2]
