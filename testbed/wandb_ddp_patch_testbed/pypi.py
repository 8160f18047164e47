"""The releases of wandb on the package index, asked through uv."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from pathlib import Path
from typing import List

from wandb_ddp_patch.errors import CommandError

from . import uvtool
from .releases import numbers


class NoSuchRelease(CommandError):
    """The index has none."""


def newest_of(requirement: str) -> str:
    """Ask the index, through uv, for the newest release that a requirement admits.

    Raises:
        NoSuchRelease: There is none.
        CommandError: The index can't be asked.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "requirements.in")
        file.write_text(requirement + "\n")
        done = uvtool.run_uv(
            *("pip", "compile", "--no-deps", "--no-header", "--no-annotate", "--universal"),
            *("--python-version", "%d.%d" % sys.version_info[:2], str(file)),
            check=False,
        )
    found = re.search(r"^wandb==(\S+)", done.stdout, re.M)
    if done.returncode or not found:
        why = uvtool.why(done.stderr)
        if "No solution found" in why and "network" not in why:
            raise NoSuchRelease(f"{requirement}: the index has no such release")
        raise CommandError(f"{requirement}: {why}")
    return found.group(1)


def releases_in(bounds: str) -> List[str]:
    """List all releases in a range such as ``>=0.21,<0.22``, the oldest first."""
    found = [newest_of(f"wandb{bounds}")]
    while True:
        try:
            found.append(newest_of(f"wandb{bounds},<{found[-1]}"))
        except NoSuchRelease:
            return found[::-1]


def newer_lines(known: str) -> List[str]:
    """List the newest release of each line after a known one's, the oldest first."""
    major, minor = numbers(known)[:2]
    bounds, found = f">={major}.{minor + 1}.0", []
    with contextlib.suppress(NoSuchRelease):
        while True:
            newest = newest_of(f"wandb{bounds}")
            found.append(newest)
            major, minor = numbers(newest)[:2]
            bounds = re.sub(r",<.*|$", f",<{major}.{minor}", bounds, count=1)
    return found[::-1]
