"""Paths: the cache folder, and the parts of a virtual environment."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator


def cache() -> Path:
    """Return the cache folder: WANDB_DDP_PATCH_CACHE, or the user's own."""
    chosen = os.environ.get("WANDB_DDP_PATCH_CACHE")
    if chosen:
        return Path(chosen).resolve()
    base = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "wandb-ddp-patch"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file lock, so that several processes can ask for the same environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            import fcntl
        except ImportError:  # Windows: one process at a time there
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def interpreter_of(folder: Path) -> str:
    """Return the path of an environment's interpreter."""
    return str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")


def site_packages(folder: Path) -> Path:
    """Return the path of an environment's site-packages."""
    return next(folder.glob("[Ll]ib*/**/site-packages"))
