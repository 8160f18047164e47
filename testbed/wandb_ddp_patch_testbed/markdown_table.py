"""The report's first table, between two marks in a Markdown file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Tuple

from wandb_ddp_patch.errors import CommandError

from . import report, source_trees

_MARK = "<!-- matrix -->\n"


def fill(page: Path, data: Dict[str, Any]) -> None:
    """Replace the table in a file by that of a report.

    Raises:
        CommandError: The file has no marks.
    """
    before, after = around(page)
    table = report.markdown(data, details=False).strip()
    page.write_text(f"{before}{table}\n{after}", "utf-8")


def around(page: Path) -> Tuple[str, str]:
    """Return the text before the table and the text after it, marks included.

    Raises:
        CommandError: The file has no marks.
    """
    parts = source_trees.read(page).split(_MARK)
    if len(parts) != 3:
        raise CommandError(f"{page}: no two lines <!-- matrix -->")
    return parts[0] + _MARK, _MARK + parts[2]
