"""How a process that becomes a forkserver is started: by which command, and what it can import."""

from __future__ import annotations

import contextlib
import os
import site
from typing import Iterator

# What the command contains by which multiprocessing starts its forkserver.
COMMAND = "from multiprocessing.forkserver import main;"
# What is put before it. For "python -c" the current folder is first on sys.path, as "". A
# random.py there, which may be another user's, would be run by the forkserver's own imports; a
# spawned worker, which has the script's sys.path by then, does not run it.
WITHOUT_CURRENT_FOLDER = "import sys; sys.path[:] = filter(None, sys.path); "
_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@contextlib.contextmanager
def package_passed_on(**variables: str) -> Iterator[None]:
    """Have a process that starts now find this package.

    Args:
        variables: What else it gets in its environment.
    """
    before = dict(os.environ)
    os.environ.update(variables)
    # It starts with nothing of this process's sys.path. Without this, it could not import this
    # package where only the script's sys.path leads to it.
    if _PACKAGES not in (*site.getsitepackages(), site.getusersitepackages()):
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, [_PACKAGES, before.get("PYTHONPATH")])
        )
    try:
        yield
    finally:
        for name in (*variables, "PYTHONPATH"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
