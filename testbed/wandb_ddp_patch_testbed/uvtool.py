"""uv: how it is run, what it says when it fails, and the interpreters that it finds."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Mapping, Optional

import uv

from wandb_ddp_patch.errors import CommandError


class NoPython(CommandError):
    """uv finds no interpreter of the wanted version."""


def find_python(version: str) -> str:
    """Find an interpreter by its version.

    Raises:
        NoPython: uv finds none.
    """
    # pyenv's interpreters are not on PATH: its shims are, and fail.
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    bins = sorted(map(str, pyenv.glob("3.*/bin")))
    path = os.pathsep.join([*bins, os.environ.get("PATH", "")])
    found = run_uv(
        # Without its cache, which may be in a home that can't be written.
        *("python", "find", "--no-cache", "--no-project", "--no-python-downloads", version),
        env={"PATH": path},
        check=False,
    )
    if found.returncode:
        raise NoPython(f"no Python {version} here: {why(found.stderr)}")
    return found.stdout.strip()


def run_uv(
    *arguments: str,
    env: Optional[Mapping[str, str]] = None,
    cwd: Optional[str] = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run uv.

    Raises:
        CommandError: It fails, and ``check`` is true.
    """
    command = [_uv(), *arguments]
    env = {**os.environ, "VIRTUAL_ENV": "", **(env or {})}
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", env=env, cwd=cwd
    )
    if check and done.returncode:
        raise CommandError(f"uv {' '.join(arguments[:2])}: {why(done.stderr)}")
    return done


# sysconfig, which find_uv_bin() reads, is not safe to use from several threads at once.
_find_lock = threading.Lock()


def _uv() -> str:
    with _find_lock:
        return uv.find_uv_bin()


def why(stderr: str) -> str:
    """Return in one line why uv failed."""
    # uv draws its reasons as a tree; its last hints are of no use in a line.
    lines = [line.strip(" \u00d7╰─▶│├") for line in stderr.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("hint:", "Using Python"))]
    if "[stderr]" in lines:  # of a build; what it says last is why
        lines = [*lines[: lines.index("[stderr]")], lines[-1]]
    return " ".join(lines)[:500] or "it failed without a word"
