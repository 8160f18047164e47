"""What a SPEC on the command line stands for: one or more wandbs to test."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

from wandb_ddp_patch.errors import CommandError

from . import environments, pypi, source_trees
from .releases import RELEASES, numbers

_RELEASE = re.compile(r"\d+\.\d+\.\d+(\.?(a|b|rc|post|dev)\d+)*")
_LINE = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Target:
    """A wandb to test.

    Attributes:
        label: What the report calls it.
        release: Its release, or the one on which a tree is overlaid.
        requirement: What uv installs.
        tree: The folder that has ``wandb/__init__.py``, for a source tree.
        notes: What a person should know.
        spec: The SPEC that stands for it alone.
    """

    label: str
    release: str
    requirement: str
    tree: Optional[Path] = None
    notes: Tuple[str, ...] = ()
    spec: str = ""

    def make(self, python: str) -> str:
        """Create or reuse its environment, and return the path of the interpreter.

        Raises:
            CommandError: It can't be created; the message says why.
        """
        if self.tree:
            return environments.overlaid(self.label, self.tree, self.release, python)
        return environments.installed(self.label, self.requirement, self.release, python)


def targets(spec: str) -> List[Target]:
    """Return what a SPEC stands for.

    Args:
        spec: ``0.31.0``, ``latest``, ``all`` (each known line, and the newer ones that
            the index has), ``0.12`` (a line: its newest release), ``">=0.21,<0.22"``
            (all releases in it), or the path of a wheel, an sdist or a source tree.

    Raises:
        CommandError: It is none of these, or the package index can't be asked.
    """
    spec = spec.strip()
    path = Path(os.path.expanduser(spec))
    if path.is_dir():
        return [dataclasses.replace(_tree(path.resolve()), spec=spec)]
    if path.is_file():
        return [dataclasses.replace(_file(path.resolve()), spec=spec)]
    if spec == "all":
        newest = max(RELEASES, key=numbers)
        return [_release(release) for release in [*RELEASES, *pypi.newer_lines(newest)]]
    if spec == "latest":
        return [_release(pypi.newest_of("wandb"))]
    if spec in RELEASES:
        return [_release(spec)]
    if _RELEASE.fullmatch(spec):
        return [_release(pypi.newest_of(f"wandb=={spec}"))]
    if _LINE.fullmatch(spec):
        return [_release(pypi.newest_of(f"wandb=={spec}.*"))]
    if spec[:1] in "<>=!~":
        return [_release(release) for release in pypi.releases_in(spec)]
    if "@" in spec and os.sep not in spec:
        raise CommandError(f"{spec}: what follows the @ is no version of Python, such as 3.9")
    what = "there is no such file or folder" if "/" in spec or "." in spec else "not known"
    raise CommandError(
        f"{spec}: {what} (a SPEC is a release, a line such as 0.12, a range, latest, all,"
        " a wheel, an sdist or a source tree)"
    )


def _release(version: str) -> Target:
    return Target(version, version, f"wandb=={version}", spec=version)


# --- files and folders ------------------------------------------------------


def _file(path: Path) -> Target:
    if path.suffix == ".whl":
        name = re.fullmatch(r"wandb-([^-]+)-.+\.whl", path.name)
        if not name or not zipfile.is_zipfile(path):
            raise CommandError(f"{path.name}: that is no wheel of wandb")
        return Target(path.stem.rsplit("-", 3)[0] + ".whl", name.group(1), str(path))
    if not _is_tar(path):
        raise CommandError(f"{path.name}: neither a wheel nor an sdist")
    return _tree(source_trees.unpacked(path), path.name)


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except Exception:  # a broken one: EOFError, and what its compression raises
        return False


def _tree(path: Path, label: Optional[str] = None) -> Target:
    version = source_trees.tree_version(path)
    released = ".".join(map(str, numbers(version)))
    release = _below(released, version == released)
    notes = (
        f"Python files of {label or path.name} ({version}), laid over release {release}:"
        " the compiled wandb-core is that release's",
    )
    return Target(label or path.name, release, f"wandb=={release}", path, notes)


def _below(released: str, itself: bool) -> str:
    """Return the release on which a tree is overlaid: its own, or the one before it."""
    if itself:
        # By its own number even a release is found that has been withdrawn.
        with contextlib.suppress(pypi.NoSuchRelease):
            return pypi.newest_of(f"wandb=={released}")
    # A development version comes after the release before it.
    return pypi.newest_of(f"wandb<{released}")
