"""Source trees of wandb: their version, their files, and how they come out of sdists."""

from __future__ import annotations

import ast
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from typing import List, Optional, Tuple

from wandb_ddp_patch.errors import CommandError

from .paths import cache, locked


def read(path: Path) -> str:
    """Read a text file as it is, line ends too.

    Raises:
        CommandError: It can't be read.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path}: can't be read: {error}") from None


def tree_version(path: Path) -> str:
    """Read the version of a wandb source tree.

    Raises:
        CommandError: It is not one.
    """
    init = path / "wandb" / "__init__.py"
    if not init.is_file() or not (path / "wandb" / "sdk").is_dir():
        raise CommandError(
            f"{path}: no source tree of wandb: it has no wandb/__init__.py and wandb/sdk"
        )
    found = re.search(r'^__version__ = "(.+)"', read(init), re.M)
    if not found:
        raise CommandError(f"{init}: names no version")
    return found.group(1)


def commit_of(tree: Path) -> Tuple[Optional[str], bool]:
    """Return the commit of a checkout, and whether its Python files differ from it.

    The commit is None if it is no checkout: an unpacked sdist may lie in another repository.
    """
    head = _git(tree, "rev-parse", "--show-prefix", "HEAD")
    if head is None or not head.startswith("\n"):
        return None, False
    return head.strip(), bool(_git(tree, "status", "--porcelain", "--", "wandb/*.py"))


def _git(tree: Path, *arguments: str) -> Optional[str]:
    try:
        done = subprocess.run(
            ["git", "-C", str(tree), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError:  # there is no git here
        return None
    return None if done.returncode else done.stdout


def broken(tree: Path) -> List[str]:
    """Return a line, with file and line number, for each syntax error in a source tree.

    What is not wandb's own is left out, and all of a tree that needs a newer Python
    than this one.
    """
    if needs(tree, sys.version_info[1] + 1):
        return []
    found = []
    for path in sorted((tree / "wandb").rglob("*.py")):
        name = path.relative_to(tree).as_posix()
        if name.startswith(("wandb/vendor/", "wandb/proto/")):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(path.read_bytes())
        except SyntaxError as error:
            found.append(f"{name}, line {error.lineno or 1}: {error.msg}")
        except ValueError as error:
            found.append(f"{name}: {error}")
    return found


def needs(tree: Path, minor: int) -> bool:
    """Return True if a tree declares that it needs at least Python 3.minor."""
    project = tree / "pyproject.toml"
    text = read(project) if project.is_file() else ""
    found = re.search(r'^requires-python = ">=3\.(\d+)', text, re.M)
    return found is not None and int(found.group(1)) >= minor


def unpacked(sdist: Path) -> Path:
    """Unpack an sdist into the cache and return its source tree.

    Raises:
        CommandError: It can't be unpacked, or a member would be written outside of its folder.
    """
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()[:8]
    folder = cache() / "sdists" / f"{sdist.name}-{digest}"
    with locked(folder.with_name(folder.name + ".lock")):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                with tarfile.open(sdist) as file:
                    _extract(file, folder)
            except Exception as error:  # also what its compression raises
                raise CommandError(f"{sdist.name}: can't be unpacked: {error}") from None
            if not any(folder.glob("*/wandb/__init__.py")):  # tarfile may stop where it is damaged
                raise CommandError(f"{sdist.name}: can't be unpacked: it is no sdist, or not whole")
            (folder / "ready").touch()
    return next((path for path in folder.iterdir() if path.is_dir()), folder)


def _extract(sdist: tarfile.TarFile, folder: Path) -> None:
    """Unpack files and folders, all of them inside of a folder, or nothing."""
    if hasattr(tarfile, "data_filter"):
        sdist.extractall(folder, filter="data")
        return
    # Older than Python 3.8.17, 3.9.17, 3.10.12 or 3.11.4: tarfile lets members out.
    # No sdist needs links, and without them a name alone says where a member goes.
    inside = folder.resolve()
    for member in sdist.getmembers():
        goes_to = (inside / member.name).resolve()
        if not (member.isfile() or member.isdir()):
            raise tarfile.ExtractError(f"{member.name} is no file and no folder")
        if goes_to != inside and inside not in goes_to.parents:
            raise tarfile.ExtractError(f"{member.name} leads out of it")
        member.mode &= 0o755
    sdist.extractall(folder)
