"""What a SPEC on the command line stands for: one or more wandbs to test."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

from ..errors import Failure
from . import environments
from .environments import numbers

_RELEASE = re.compile(r"\d+\.\d+\.\d+(\.?(a|b|rc|post|dev)\d+)*")
_LINE = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Target:
    """A wandb to test.

    Attributes:
        label: What the report calls it.
        release: The release that it is, or over which it is laid.
        requirement: What uv installs.
        tree: The folder that has ``wandb/__init__.py``, for a source tree.
        notes: What a person should know.
    """

    label: str
    release: str
    requirement: str
    tree: Optional[Path] = None
    notes: Tuple[str, ...] = ()

    def make(self, python: str) -> str:
        """Make, or find, its environment; returns the interpreter's path.

        Raises:
            Failure: It can't be made; the message says why.
        """
        if self.tree:
            return environments.overlaid(self.label, self.tree, self.release, python)
        return environments.installed(self.label, self.requirement, self.release, python)


def targets(spec: str) -> List[Target]:
    """Say what a SPEC stands for.

    Args:
        spec: ``0.31.0``, ``latest``, ``all`` (each known line, and the newer ones that
            the index has), ``0.12`` (a line: its newest release), ``">=0.21,<0.22"``
            (all releases in it), or the path of a wheel, an sdist or a source tree.

    Raises:
        Failure: It is none of these, or the index can't be asked.
    """
    spec = spec.strip()
    path = Path(os.path.expanduser(spec))
    if path.is_dir():
        return [_tree(path.resolve())]
    if path.is_file():
        return [_file(path.resolve())]
    if spec == "all":
        newest = max(environments.RELEASES, key=numbers)
        return [_release(known) for known in environments.RELEASES] + newer_lines(newest)
    if spec == "latest":
        return [_release(newest_of("wandb"))]
    if spec in environments.RELEASES:
        return [_release(spec)]
    if _RELEASE.fullmatch(spec):
        return [_release(newest_of(f"wandb=={spec}"))]
    if _LINE.fullmatch(spec):
        return [_release(newest_of(f"wandb=={spec}.*"))]
    if spec[:1] in "<>=!~":
        return [_release(release) for release in releases_in(spec)]
    what = "there is no such file or folder" if "/" in spec or "." in spec else "what is that?"
    raise Failure(
        f"{spec}: {what} (a SPEC is a release, a line such as 0.12, a range, latest, all,"
        " a wheel, an sdist or a source tree)"
    )


def _release(version: str) -> Target:
    return Target(version, version, f"wandb=={version}")


# --- what the index has -----------------------------------------------------


def newest_of(requirement: str) -> str:
    """Ask the index, through uv, for the newest release that a requirement admits.

    Raises:
        Failure: There is none, or the index can't be asked.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "requirements.in")
        file.write_text(requirement + "\n")
        done = environments.run_uv(
            *("pip", "compile", "--no-deps", "--no-header", "--no-annotate", "--universal"),
            *("--python-version", "%d.%d" % sys.version_info[:2], str(file)),
            check=False,
        )
    found = re.search(r"^wandb==(\S+)", done.stdout, re.M)
    if done.returncode or not found:
        why = environments.why(done.stderr)
        if "No solution found" in why and "network" not in why:
            why = "the index has no such release"
        raise Failure(f"{requirement}: {why}")
    return found.group(1)


def releases_in(bounds: str) -> List[str]:
    """List all releases in a range such as ``>=0.21,<0.22``, the oldest first."""
    found = [newest_of(f"wandb{bounds}")]
    while True:
        try:
            found.append(newest_of(f"wandb{bounds},<{found[-1]}"))
        except Failure as error:
            if "no such release" not in str(error):
                raise
            return found[::-1]


def newer_lines(known: str) -> List[Target]:
    """List the newest release of each line after a known one's, the oldest first."""
    major, minor = numbers(known)[:2]
    bounds, found = f">={major}.{minor + 1}.0", []
    try:
        while True:
            newest = newest_of(f"wandb{bounds}")
            found.append(_release(newest))
            major, minor = numbers(newest)[:2]
            bounds = re.sub(r",<.*|$", f",<{major}.{minor}", bounds, count=1)
    except Failure as error:
        if "no such release" not in str(error):
            raise
    return found[::-1]


# --- files and folders ------------------------------------------------------


def _file(path: Path) -> Target:
    if path.suffix == ".whl":
        name = re.fullmatch(r"wandb-([^-]+)-.+\.whl", path.name)
        if not name or not zipfile.is_zipfile(path):
            raise Failure(f"{path.name}: that is no wheel of wandb")
        return Target(path.stem.rsplit("-", 3)[0] + ".whl", name.group(1), str(path))
    if not tarfile.is_tarfile(path):
        raise Failure(f"{path.name}: neither a wheel nor an sdist")
    return _tree(unpacked(path), path.name)


def unpacked(sdist: Path) -> Path:
    """Unpack an sdist into the cache and return its source tree."""
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()[:8]
    folder = environments.cache() / "sdists" / f"{sdist.name}-{digest}"
    with environments.locked(folder.with_name(folder.name + ".lock")):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                with tarfile.open(sdist) as file:
                    if hasattr(tarfile, "data_filter"):
                        file.extractall(folder, filter="data")
                    else:
                        file.extractall(folder)
            except (OSError, tarfile.TarError, EOFError) as error:
                raise Failure(f"{sdist.name}: can't be unpacked: {error}") from None
            (folder / "ready").touch()
    return next((path for path in folder.iterdir() if path.is_dir()), folder)


def _tree(path: Path, label: Optional[str] = None) -> Target:
    version = tree_version(path)
    released = ".".join(map(str, numbers(version)))
    # A development version comes after the release before it.
    bound = "<=" if released == version else "<"
    release = newest_of(f"wandb{bound}{released}")
    notes = (
        f"Python files of {label or path.name} ({version}), laid over release {release}:"
        " the compiled wandb-core is that release's",
    )
    return Target(label or path.name, release, f"wandb=={release}", path, notes)


def read(path: Path) -> str:
    """Read a Python file as it is, line ends too.

    Raises:
        Failure: It can't be read.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path}: can't be read: {error}") from None


def tree_version(path: Path) -> str:
    """Read the version of a wandb source tree.

    Raises:
        Failure: It is none.
    """
    init = path / "wandb" / "__init__.py"
    if not init.is_file() or not (path / "wandb" / "sdk").is_dir():
        raise Failure(f"{path}: no source tree of wandb: it has no wandb/__init__.py and wandb/sdk")
    found = re.search(r'^__version__ = "(.+)"', read(init), re.M)
    if not found:
        raise Failure(f"{init}: names no version")
    return found.group(1)
