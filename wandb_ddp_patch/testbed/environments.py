"""Virtual environments with a wandb in them: made once, with uv, and reused.

They lie in a cache folder, under a name that tells what is in them, so that
another wish makes another one. Three levels of the same thing: a release, a
wheel, and a source tree laid over a release.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set

from ..errors import Failure

# Each release line, and what it needs besides what it says itself: "pins" for its
# dependencies, "aliases" for names that Python 3.10 took out of the standard library.
RELEASES: Dict[str, Dict[str, Any]] = json.loads(
    Path(__file__).with_name("releases.json").read_text("utf-8")
)


class NoPython(Failure):
    """uv finds no interpreter of the wanted version."""


def cache() -> Path:
    """Give the cache folder: WANDB_DDP_PATCH_CACHE, or the user's own."""
    chosen = os.environ.get("WANDB_DDP_PATCH_CACHE")
    if chosen:
        return Path(chosen).resolve()
    base = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "wandb-ddp-patch"


def environment(release: str, python: str = "3.11") -> str:
    """Make, or find, an environment with a wandb release.

    Args:
        release: Its version.
        python: The version of the interpreter.

    Returns:
        The path of the environment's interpreter.

    Raises:
        NoPython: There is no such interpreter here.
        Failure: It can't be installed; the message says why.
    """
    return installed(release, f"wandb=={release}", release, python)


def installed(label: str, requirement: str, release: str, python: str) -> str:
    """Make, or find, an environment with something that is a wandb.

    Args:
        label: For the folder's name.
        requirement: What uv is to install.
        release: The release of whose line it is, for what that needs.
        python: The version of the interpreter.
    """
    needs = needs_of(release)
    wanted = [requirement, *needs["pins"]]
    if os.path.exists(requirement):
        wanted.append(hashlib.sha256(Path(requirement).read_bytes()).hexdigest())
    interpreter = find_python(python)
    folder = _folder(f"{label}-py{python}", [*wanted, interpreter, _torch_here()])
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
    """Make, or find, an environment with a source tree laid over a release.

    Only Python files are taken: building wandb-core takes Go and Rust.

    Args:
        label: For the folder's name.
        tree: The folder that has ``wandb/__init__.py``.
        release: The release over which it is laid.
        python: The version of the interpreter.
    """
    sources = sorted((tree / "wandb").rglob("*.py"))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(str(source.relative_to(tree)).encode() + b"\0" + source.read_bytes())
    base = Path(environment(release, python))
    folder = _folder(f"{label}-py{python}", [str(base), digest.hexdigest()])
    with locked(folder.with_name(folder.name + ".lock")):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(base.parent.parent, folder, symlinks=True)
            site = site_packages(folder)
            for old in (site / "wandb").rglob("*.py"):
                if not (tree / old.relative_to(site)).exists():
                    old.unlink()
            for source in sources:
                target = site / source.relative_to(tree)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            subprocess.run(
                [interpreter_of(folder), "-m", "compileall", "-q", str(site / "wandb")],
                stdout=subprocess.DEVNULL,
                check=False,  # a broken file is the probes' to find
            )
            (folder / "ready").touch()
    return interpreter_of(folder)


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


def needs_of(release: str) -> Dict[str, Any]:
    """Say what a release needs on newer Pythons: as the known one before it does."""
    before = [known for known in RELEASES if numbers(known) <= numbers(release)]
    return RELEASES[max(before or [min(RELEASES, key=numbers)], key=numbers)]


def numbers(version: str) -> List[int]:
    """Give the numbers of a version, for comparing."""
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def interpreter_of(folder: Path) -> str:
    """Give the path of an environment's interpreter."""
    return str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")


def site_packages(folder: Path) -> Path:
    """Give the path of an environment's site-packages."""
    return next(folder.glob("[Ll]ib*/**/site-packages"))


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
        *("python", "find", "--no-project", "--no-python-downloads", version),
        env={"PATH": path},
        check=False,
    )
    if found.returncode:
        raise NoPython(f"no Python {version} here: {why(found.stderr)}")
    return found.stdout.strip()


def run_uv(
    *arguments: str, env: Optional[Mapping[str, str]] = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run uv.

    Raises:
        Failure: It is not installed, or fails and ``check`` is true.
    """
    command = [_uv(), *arguments]
    env = {**os.environ, "VIRTUAL_ENV": "", **(env or {})}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=env)
    if check and done.returncode:
        raise Failure(f"uv {' '.join(arguments[:2])}: {why(done.stderr)}")
    return done


# sysconfig, in which uv looks, is not made for threads that come at once.
_looking = threading.Lock()


def _uv() -> str:
    with _looking:
        try:
            import uv
        except ImportError:
            raise Failure(
                "the testbed needs more: pip install '.[testbed]' in this package's source folder"
            ) from None
        return uv.find_uv_bin()


def why(stderr: str) -> str:
    """Say in a line why uv has failed."""
    # uv draws its reasons as a tree; its last hints are of no use in a line.
    lines = [line.strip(" \u00d7╰─▶│├") for line in stderr.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("hint:", "Using Python"))]
    if "[stderr]" in lines:  # of a build; what it says last is why
        lines = [*lines[: lines.index("[stderr]")], lines[-1]]
    return " ".join(lines)[:500] or "it failed without a word"


def _put_back(folder: Path, aliases: Mapping[str, str]) -> None:
    """Put names back into modules of the standard library that have lost them."""
    for old, new in aliases.items():
        (module, name), (new_module, new_name) = old.rsplit(".", 1), new.rsplit(".", 1)
        line = f"import {module}, {new_module}; {old} = {new_module}.{new_name}\n"
        (site_packages(folder) / f"{name}-of-old.pth").write_text(line, "ascii")


def _torch_here() -> str:
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
    if site.parent.name != version or _torch_here() == "no torch":
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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock: several processes may want one environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            import fcntl
        except ImportError:  # Windows: one process at a time there
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
