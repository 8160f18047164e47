"""Whether to start the early server: will the script want workers, and may it be started here?

This is asked whenever torch is imported, in most cases for nothing: so it imports late.
"""

from __future__ import annotations

import os
import sys
from types import CodeType
from typing import Iterator, Optional

_PACKAGE = __name__.split(".")[0]
_WANTING = ("spawn", "use_forkserver")
# A process that another program has started as one of several workers: each would get ready.
_LAUNCHED = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "PALS_LOCAL_RANKID")


def script_names_spawn() -> bool:
    """Return True if a module that is being imported names spawn() of this package.

    The script is one, where it imports torch. Another way to know it would be to wait until the
    script imports the name, which in most scripts comes after torch.
    """
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "<module>" and _PACKAGE in code.co_names and _names_spawn(code):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _names_spawn(code: CodeType) -> bool:
    import dis  # late, for the few scripts that name this package; torch imports it as well

    aliases = set()
    for each in _nested(code):
        imported, before = None, None
        for step in dis.get_instructions(each):
            if step.opname == "IMPORT_NAME":
                imported = step.argval
            elif imported == _PACKAGE and step.opname == "IMPORT_FROM":
                if step.argval in _WANTING:
                    return True
            elif step.opname.startswith("STORE_"):
                if before == "IMPORT_NAME" and imported == _PACKAGE:
                    aliases.add(step.argval)
            elif before in aliases and step.argval in _WANTING:
                return True
            is_load = step.opname in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FAST", "LOAD_DEREF")
            before = step.argval if is_load else step.opname
    return False


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _nested(each)


def may_prepare() -> bool:
    """Return True if a process may be started in the background for the workers to come."""
    return (
        sys.platform == "linux"
        and not getattr(sys, "frozen", False)
        and not any(name in os.environ for name in _LAUNCHED)
        and _is_users_script()
        and not _is_worker()
        and _has_second_processor()
    )


def _is_users_script() -> bool:
    """Return False in a forkserver, a program of a package (torchrun, pytest), or at a prompt."""
    import sysconfig  # late, as those below

    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if not isinstance(file, str) or file == "<stdin>":
        return False
    file = os.path.abspath(file)
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = sysconfig.get_paths()
    folders = own, *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    programs = paths["scripts"]
    return os.path.dirname(file) != programs and not file.startswith(
        tuple(os.path.join(folder, "") for folder in folders)
    )


def _is_worker() -> bool:
    import multiprocessing

    from .. import _multiprocessing

    return (
        getattr(multiprocessing.current_process(), "_inheriting", False)
        or multiprocessing.parent_process() is not None
        or _multiprocessing.is_worker()
    )


def _has_second_processor() -> bool:
    """Return False if the script would have to share its only processor."""
    quotas = [_quota(line) for line in _lines("/proc/self/cgroup")]
    return len(os.sched_getaffinity(0)) > 1 and all(q is None or q > 1 for q in quotas)


def _quota(line: str) -> Optional[float]:
    """Return how many processors a control group may use, or None for any number."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return None
    # In a container, the path may be that on the host, and the group's files are at the top.
    least = None
    while True:
        values = _limit(controllers, path.rstrip("/"))
        if values is not None and (least is None or values < least):
            least = values
        if path in ("", "/"):
            return least
        path = os.path.dirname(path)


def _limit(controllers: str, path: str) -> Optional[float]:
    if controllers:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = [w for n in names for w in _lines(f"/sys/fs/cgroup/cpu{path}/{n}")]
    else:
        words = " ".join(_lines(f"/sys/fs/cgroup{path}/cpu.max")).split()
    try:
        quota, period = map(int, words)
    except ValueError:  # "max", or there is no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            yield from file.read().splitlines()
    except OSError:
        return
