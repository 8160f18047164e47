"""What a fork of the forkserver has that a spawned worker has not, and the other way round.

A spawned worker gets what its parent hands on now, and makes for itself what importing the
script makes. A fork of the forkserver has what that was given when it was started, shares
what the import made there, and lacks what no fork is given. Both are compared in what the
kernel shows, but for what is known to change by itself: a list of what to look for would
lack what nobody has thought of.
https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import stat
import time
from collections import Counter
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

# That of the thread, which is what gives a new process its own; before Linux 3.17, the first's.
_THREAD = "/proc/thread-self" if os.path.exists("/proc/thread-self") else "/proc/self"

# --- between two starts: what this process hands on ---------------------------------

# Fields of status that change by themselves, or that a new process has of its own.
_VARYING = (
    *("Name", "State", "Tgid", "Ngid", "Pid", "PPid", "TracerPid", "FDSize", "NStgid", "NSpid"),
    *("Vm", "Rss", "HugetlbPages", "CoreDumping", "Threads", "SigQ", "SigPnd", "ShdPnd", "SigCgt"),
    *("x86_Thread", "voluntary", "nonvoluntary"),
)
# What people call a field, by how it begins; else by itself.
_CALLED = {
    "Uid": "user ids",
    "Gid": "group ids",
    "Groups": "groups",
    "Umask": "umask",
    "NSpgid": "process group",
    "NSsid": "session",
    "SigBlk": "blocked signals",
    "SigIgn": "ignored signals",
    "Cap": "capabilities",
    "NoNewPrivs": "no_new_privs",
    "Seccomp": "seccomp filters",
    "Cpus_allowed": "CPU affinity",
    "Mems_allowed": "memory nodes",
}
_FILES = {
    f"{_THREAD}/attr/current": "security label",
    f"{_THREAD}/personality": "personality",
    "/proc/self/oom_score_adj": "oom_score_adj",
    "/proc/self/timerslack_ns": "timer slack",
    "/proc/self/coredump_filter": "coredump filter",
    "/proc/self/loginuid": "login",
}


def handed_on() -> Dict[str, Any]:
    """Give what a new process gets from the thread that starts it, by what people call it."""
    root = os.stat("/")
    found: Dict[str, Any] = {"root folder": (root.st_dev, root.st_ino)}  # another has no /proc
    found.update(_shown(_THREAD))
    found.update(_answered({name: ask for name, ask in _CALLS.items() if name not in found}))
    found.update(_set_from_outside(0))
    found.update((name, _read(file)) for file, name in _FILES.items())
    found.update((f"namespace ({name})", link) for name, link in _namespaces())
    return found


def _shown(folder: str) -> Dict[str, Any]:
    found: Dict[str, Any] = {"control group": _read(f"{folder}/cgroup")}
    for field, value in _status(folder):
        name = _called(field)
        if name is not None:
            found.setdefault(name, []).append(value)
    return found


@functools.lru_cache(maxsize=None)
def _called(field: str) -> Optional[str]:
    if field.startswith(_VARYING):
        return None
    return next((name for start, name in _CALLED.items() if field.startswith(start)), field)


def changed(before: Dict[str, Any], server: Optional[int]) -> Optional[str]:
    """Name the first thing that this process hands on differently by now, or None.

    Args:
        server: The process whose forks have what it was before.
    """
    now = handed_on()
    differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differ and server is not None:
        # A container's manager changes the processors of both, for instance.
        forks = {**_shown(f"/proc/{server}"), **_set_from_outside(server)}
        forks["oom_score_adj"] = _read(f"/proc/{server}/oom_score_adj")
        differ = [name for name in differ if name not in now or forks.get(name) != now[name]]
    return next(iter(differ), None)


def _ignored() -> List[int]:
    return [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN]


def _limits(pid: int) -> List[Any]:
    import resource

    kinds = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
    if pid:
        return [resource.prlimit(pid, kind) for kind in kinds]
    return [resource.getrlimit(kind) for kind in kinds]


def _set_from_outside(pid: int) -> Dict[str, Any]:
    """Give what status does not show, and others may change; of this process, where it is 0."""
    asked: Dict[str, Callable[[], Any]] = {
        "limits (ulimit)": lambda: _limits(pid),
        "priority (nice)": lambda: os.getpriority(os.PRIO_PROCESS, pid),
        "scheduling policy": lambda: (
            os.sched_getscheduler(pid),
            os.sched_getparam(pid).sched_priority,
        ),
    }
    return _answered(asked)


def _answered(asked: Dict[str, Callable[[], Any]]) -> Dict[str, Any]:
    found = {}
    for name, ask in asked.items():
        with contextlib.suppress(OSError, AttributeError, ImportError):  # not on each platform
            found[name] = ask()
    return found


# Status shows all of these, where there is one.
_CALLS: Dict[str, Callable[[], Any]] = {
    "user ids": lambda: (os.getuid(), os.geteuid()),
    "group ids": lambda: (os.getgid(), os.getegid()),
    "groups": lambda: os.getgroups(),
    "process group": lambda: os.getpgrp(),
    "session": lambda: os.getsid(0),
    "ignored signals": _ignored,
    "blocked signals": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    "CPU affinity": lambda: os.sched_getaffinity(0),
}

# --- around the import: what is not handed on to a fork, or shared with it -----------


def own() -> Set[Tuple[str, Any]]:
    """Give what a process has that its forks share or lack; each with what it is called."""
    found: Set[Tuple[str, Any]] = {
        ("another process group", os.getpgrp()),
        ("another session", os.getsid(0)),
        ("another control group", _read(f"{_THREAD}/cgroup")),
        ("locked memory", dict(_status(_THREAD)).get("VmLck")),
    }
    found.update((f"a namespace ({name})", link) for name, link in _namespaces())
    found.update(
        ("a timer", each) for each in ("\n" + _read("/proc/self/timers")).split("\nID: ")[1:]
    )
    # The last by name: what tracks shared memory for multiprocessing is one.
    found.update(("subprocesses", pid) for pid in _read(f"{_THREAD}/children").split())
    return found.union(_shared_memory())


def made_since(before: Set[Tuple[str, Any]]) -> Optional[str]:
    """Name one thing that this process has made since and its forks share or lack, or None."""
    return min((name for name, _ in own() - before), default=None)


def _shared_memory() -> Iterator[Tuple[str, Any]]:
    """Give the maps in which forks see what one of them writes: semaphores are such, too."""
    # Not splitlines(): a path may hold what that takes for the end of a line.
    for line in filter(None, _read("/proc/self/maps").split("\n")):
        _, access, *where = line.split(None, 5)
        path = where[3] if len(where) > 3 else ""
        # Of a device, trial.py asks the accelerators themselves.
        is_device = path.startswith("/dev/") and not path.startswith(("/dev/shm/", "/dev/zero"))
        if access[1] == "w" and access[3] == "s" and not is_device:
            is_lock = path.startswith("/dev/shm/sem.")
            yield "a lock or semaphore" if is_lock else "shared memory", tuple(where[1:])


def descriptors() -> Dict[int, str]:
    """Give the open files and connections by their numbers, where Linux shows them."""
    found = {}
    with contextlib.suppress(OSError):
        for number in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                mode = os.fstat(number).st_mode
                if not (stat.S_ISCHR(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode)):
                    found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


# --- threads ----------------------------------------------------------------------

# jemalloc's, which pandas, scikit-learn and others bring by pyarrow: its own handlers of forks
# do without.
_SURVIVING = {"jemalloc_bg_thd"}
_ENDING_SECONDS = 1


def lost_threads() -> List[str]:
    """Name, in a fork, the threads that its parent has kept and it has not.

    Libraries that know of forks end theirs before one, as OpenBLAS does, or start them again.
    """
    until = time.monotonic() + _ENDING_SECONDS
    while True:
        lost = _tasks(os.getppid()) - _tasks(os.getpid())
        names = sorted(name for name in lost if name not in _SURVIVING)
        if not names or time.monotonic() > until:
            return names
        time.sleep(0.01)  # one that has ended may still be listed


def _tasks(pid: int) -> Counter[str]:
    found: Counter[str] = Counter()
    main = _comm(pid, pid)
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            name = _comm(pid, int(task))
            # Who gives a thread no name, gives it its process's.
            found["of native code" if name == main else name] += int(task) != pid
    return found


def _comm(pid: int, task: int) -> str:
    return _read(f"/proc/{pid}/task/{task}/comm")


# --- /proc --------------------------------------------------------------------------


def _read(path: str) -> str:
    """Give what a file holds; where there is none, or it may not be read, nothing."""
    parts: List[bytes] = []
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # open() takes three times as long
        try:
            while not parts or parts[-1]:
                parts.append(os.read(descriptor, 1 << 16))
        finally:
            os.close(descriptor)
    return os.fsdecode(b"".join(parts)).strip()


def _status(folder: str) -> Iterator[Tuple[str, str]]:
    for line in _read(f"{folder}/status").split("\n"):
        field, _, value = line.partition(":")
        yield field, value.strip()


def _namespaces() -> Iterator[Tuple[str, str]]:
    with contextlib.suppress(OSError):
        for name in os.listdir(f"{_THREAD}/ns"):
            yield name, os.readlink(f"{_THREAD}/ns/{name}")
