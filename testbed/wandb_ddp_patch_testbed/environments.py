"""Virtual environments with a wandb in them: created once, with uv, and reused.

They lie in a cache folder, under a name with a hash of what is in them, so that
different contents get different environments. There are three kinds: a release,
a wheel, and a source tree overlaid on a release.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import List, Mapping

from .paths import cache, interpreter_of, locked, site_packages
from .releases import RELEASES, needs_of
from .torch_link import link_torch, torch_here
from .uvtool import NoPython, find_python, run_uv, why

# Callers that want an environment find here what else they need for it.
__all__ = [
    "RELEASES",
    "NoPython",
    "cache",
    "environment",
    "find_python",
    "installed",
    "link_torch",
    "locked",
    "needs_of",
    "notes_of",
    "overlaid",
    "remove",
    "run_uv",
]


def environment(release: str, python: str = "3.11") -> str:
    """Create or reuse an environment with a wandb release.

    Args:
        release: Its version.
        python: The version of the interpreter.

    Returns:
        The path of the environment's interpreter.

    Raises:
        NoPython: There is no such interpreter here.
        CommandError: It can't be installed; the message says why.
    """
    return installed(release, f"wandb=={release}", release, python)


def installed(label: str, requirement: str, release: str, python: str) -> str:
    """Create or reuse an environment with what a requirement stands for.

    Args:
        label: For the folder's name.
        requirement: What uv is to install.
        release: The release whose pins it gets.
        python: The version of the interpreter.
    """
    needs = needs_of(release)
    wanted = [requirement, *needs["pins"]]
    if os.path.exists(requirement):
        wanted.append(hashlib.sha256(Path(requirement).read_bytes()).hexdigest())
    interpreter = find_python(python)
    folder = _folder(f"{label}-py{python}", [*wanted, interpreter, torch_here()])
    with locked(folder.with_name(folder.name + ".lock")):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            run_uv("venv", "--python", interpreter, str(folder))
            # Compiled once: workers import wandb again and again.
            wanted = [requirement, *needs["pins"]]
            run_uv("pip", "install", "--compile-bytecode", "--python", str(folder), *wanted)
            _put_back(folder, needs.get("aliases", {}))
            link_torch(folder)
            (folder / "ready").touch()
    return interpreter_of(folder)


def overlaid(label: str, tree: Path, release: str, python: str) -> str:
    """Create or reuse an environment with a source tree overlaid on a release.

    Only Python files are copied: building wandb-core takes Go and Rust.

    Args:
        label: For the folder's name.
        tree: The folder that has ``wandb/__init__.py``.
        release: The release on which it is overlaid.
        python: The version of the interpreter.
    """
    sources = sorted((tree / "wandb").rglob("*.py"))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(str(source.relative_to(tree)).encode() + b"\0" + source.read_bytes())
    base = Path(environment(release, python))
    needs = _declared(tree)
    for file in needs:
        digest.update(file.read_bytes())
    folder = _folder(f"{label}-py{python}", [str(base), digest.hexdigest()])
    with locked(folder.with_name(folder.name + ".lock")):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            site = _overlay(base.parent.parent, tree, sources, folder)
            lacking = _install_declared(folder, needs)
            notes = lacking + _without_torch(folder)
            (folder / "notes").write_text("\n".join(notes), "utf-8")
            subprocess.run(
                [interpreter_of(folder), "-m", "compileall", "-q", str(site / "wandb")],
                stdout=subprocess.DEVNULL,
                check=False,  # a broken file is the probes' to find
            )
            if not lacking:
                (folder / "ready").touch()  # else the index may do better the next time
    return interpreter_of(folder)


def _overlay(base: Path, tree: Path, sources: List[Path], folder: Path) -> Path:
    """Copy an environment with a tree's Python files in it; return its site-packages."""
    # Without its mark: a copy that is interrupted would count as ready.
    shutil.copytree(
        base,
        folder,
        symlinks=True,
        ignore=lambda path, _: {"ready"} if path == str(base) else set(),
    )
    site = site_packages(folder)
    for old in (site / "wandb").rglob("*.py"):
        if not (tree / old.relative_to(site)).exists():
            old.unlink()
    for source in sources:
        target = site / source.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return site


def _declared(tree: Path) -> List[Path]:
    """Return the file that declares what a tree needs, if there is one."""
    project = tree / "pyproject.toml"
    if project.is_file() and "\ndependencies = [" in project.read_text("utf-8", "replace"):
        return [project]
    return [file for file in [tree / "requirements.txt"] if file.is_file()]


def _install_declared(folder: Path, needs: List[Path]) -> List[str]:
    """Install what a tree declares; return notes about what could not be installed."""
    notes = []
    for file in needs:
        done = run_uv("pip", "install", "--python", str(folder), "-r", str(file), check=False)
        if done.returncode:
            notes.append(f"what {file.name} declares can't be installed: {why(done.stderr)}")
    return notes


def _without_torch(folder: Path) -> List[str]:
    if (folder / "torch").is_dir():
        return []
    return [
        "no torch here for this Python: what is about it is unproven (pip install torch,"
        " beside this package)"
    ]


def notes_of(python: str) -> List[str]:
    """Return notes for people about the environment of an interpreter."""
    notes = Path(python).parent.parent / "notes"
    return notes.read_text("utf-8").splitlines() if notes.is_file() else []


def remove(python: str) -> None:
    """Remove the environment of an interpreter that is in the cache."""
    folder = Path(python).parent.parent
    if folder.parent == cache() / "environments":
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.with_name(folder.name + ".lock").unlink()


def _folder(label: str, wanted: List[str]) -> Path:
    tag = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:8]
    return cache() / "environments" / f"{re.sub(r'[^A-Za-z0-9.]+', '_', label)}-{tag}"


def _put_back(folder: Path, aliases: Mapping[str, str]) -> None:
    """Put names back into the standard library that newer Pythons have removed."""
    for old, new in aliases.items():
        (module, name), (new_module, new_name) = old.rsplit(".", 1), new.rsplit(".", 1)
        line = f"import {module}, {new_module}; {old} = {new_module}.{new_name}\n"
        (site_packages(folder) / f"{name}-of-old.pth").write_text(line, "ascii")
