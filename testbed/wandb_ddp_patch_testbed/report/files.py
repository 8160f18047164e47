"""The report in files, which may be read while the testbed still writes them."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import List

from .html import html
from .markdown import markdown
from .model import Report


def write(report: Report, folder: os.PathLike[str]) -> List[Path]:
    """Write ``report.md``, ``report.json`` and ``index.html``.

    A reader finds either the old file or the new one, never half of one.

    Args:
        report: The report. Other threads may go on adding verdicts to it.
        folder: The folder to write to; created if it does not exist.

    Returns:
        The files' paths.

    Raises:
        ImportError: jinja2 is not installed. Nothing is written then.
        OSError: They can't be written.
    """
    report = _snapshot(report)
    files = [
        ("report.md", markdown(report)),
        ("report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n"),
        ("index.html", html(report)),
    ]
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [_replace(Path(folder, name), content) for name, content in files]


def _snapshot(report: Report) -> Report:
    """Copy what other threads add to: to copy a dict is one step, to go through it is not."""
    environments = [
        {
            **environment,
            "verdicts": {
                side: dict(verdicts) for side, verdicts in dict(environment["verdicts"]).items()
            },
        }
        for environment in report["environments"]
    ]
    return {**report, "environments": environments}


def _replace(path: Path, content: str) -> Path:
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        # Half a surrogate pair, which a traceback may hold, has no UTF-8; as \udc80
        # it is itself again in JSON.
        beside.write_bytes(content.encode("utf-8", "backslashreplace"))
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    return path
