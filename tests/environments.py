"""Virtual environments of wandb releases: made once, with uv, and reused.

They live in .cache, under a name that tells what is in them, so that a changed
pin makes a new one. An interpreter that is not there raises ``NoPython``.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import uv

ROOT = Path(__file__).resolve().parent.parent
RELEASES = json.loads((ROOT / "tests" / "wandb-releases.json").read_text("utf-8"))
CACHE = ROOT / ".cache"


class NoPython(Exception):
    """uv finds no interpreter of the wanted version."""


def environment(release, python="3.11"):
    """Return the interpreter of an environment that has a wandb release."""
    wanted = [f"wandb=={release}", *RELEASES[release]["pins"]]
    interpreter = find_python(python)
    tag = hashlib.sha256("\n".join([*wanted, interpreter]).encode()).hexdigest()[:8]
    folder = CACHE / "environments" / f"{release}-py{python}-{tag}"
    with locked(folder.with_name(folder.name + ".lock")):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            run_uv("venv", "--python", interpreter, str(folder))
            run_uv("pip", "install", "--python", str(folder), *wanted)
            link_torch(folder)
            (folder / "ready").touch()
    return str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")


def find_python(version):
    # pyenv's interpreters are not on PATH: its shims are, and fail.
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    bins = sorted(map(str, pyenv.glob("*/bin")))
    path = os.pathsep.join([*bins, os.environ.get("PATH", "")])
    found = run_uv("python", "find", "--no-project", version, env={"PATH": path}, check=False)
    if found.returncode:
        raise NoPython(f"no Python {version} here: {found.stderr.strip().splitlines()[-1]}")
    return found.stdout.strip()


def run_uv(*arguments, env=None, check=True):
    command = [uv.find_uv_bin(), *arguments]
    env = {**os.environ, "VIRTUAL_ENV": "", **(env or {})}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if check and done.returncode:
        raise RuntimeError(f"uv {' '.join(arguments)}: {done.stderr[-2000:]}")
    return done


def link_torch(folder):
    """Let an environment use the tests' own torch, where the Python is the same.

    Links to torch and what it imports, not the whole site-packages: there is a
    NumPy in there, which old wandb releases can't work with.
    """
    site = next(folder.glob("lib/python*/site-packages"), None)
    version = "python%d.%d" % sys.version_info[:2]
    if site is None or site.parent.name != version:
        return
    links = folder / "torch"
    links.mkdir()
    for name in needed_by("torch", {"numpy", "setuptools"}):
        distribution = importlib.metadata.distribution(name)
        base = Path(str(distribution.locate_file("")))
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            with contextlib.suppress(FileExistsError):
                (links / top).symlink_to(base / top)
    (site / "torch-of-the-tests.pth").write_text(f"{links}\n")


def needed_by(name, seen):
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
        if "extra ==" not in requirement:
            needed = re.match(r"[\w.-]+", requirement).group()
            yield from needed_by(re.sub(r"[-_.]+", "-", needed).lower(), seen)


@contextlib.contextmanager
def locked(path):
    """Hold a file's lock: several test processes may want one environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            import fcntl
        except ImportError:  # Windows: one process at a time there
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
