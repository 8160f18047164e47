"""Environments use the torch of this one: it is too large to be in each of them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Iterator, Set

from .paths import site_packages


def torch_here() -> str:
    """Return the version and the location of the torch in this environment, or "no torch"."""
    try:
        torch = importlib.metadata.distribution("torch")
        return f"{torch.version} {torch.locate_file('')}"
    except importlib.metadata.PackageNotFoundError:
        return "no torch"


def link_torch(folder: Path) -> None:
    """Let an environment use the torch of this one, where the Python is the same.

    Links to torch and what it imports, not the whole site-packages: there may be
    a NumPy in there, which old wandb releases can't work with.
    """
    site = site_packages(folder)
    version = "python%d.%d" % sys.version_info[:2]
    if site.parent.name != version or torch_here() == "no torch":
        return
    links = folder / "torch"
    links.mkdir()
    for name in _needed_by("torch", {"numpy", "setuptools"}):
        distribution = importlib.metadata.distribution(name)
        base = Path(str(distribution.locate_file("")))
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            with contextlib.suppress(FileExistsError):
                (links / top).symlink_to(base / top)
    (site / "torch-of-the-testbed.pth").write_text(f"{links}\n")


def _needed_by(name: str, seen: Set[str]) -> Iterator[str]:
    """Yield a distribution and all that it needs and that is installed."""
    if name in seen:
        return
    seen.add(name)
    try:
        requires = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return
    yield name
    for requirement in requires:
        needed = re.match(r"[\w.-]+", requirement)
        if needed and "extra ==" not in requirement:
            yield from _needed_by(re.sub(r"[-_.]+", "-", needed.group()).lower(), seen)
