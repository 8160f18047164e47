"""What the kernel shows of a process: what others inherit from it, share with it or lack.

A spawned worker inherits its parent's state of now, and creates for itself what importing the
script creates. A fork of the forkserver inherits the state with which that was started, shares
what the import created there, and lacks what no fork gets. Both are compared in what the kernel
shows, except for what is known to change by itself: a list of what to look for would lack what
nobody has thought of.
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
from typing import Callable, Dict, Iterator, List, Optional, Set, Tuple

# What a new process inherits, by the name that warnings use for it.
InheritedState = Dict[str, object]
# A name for warnings, and what tells this resource from others of its kind.
Resource = Tuple[str, object]

# A new process inherits from the thread that starts it, whose state may differ from that of the
# main thread, which /proc/self shows. Linux has thread-self since 3.17.
_THREAD = "/proc/thread-self" if os.path.exists("/proc/thread-self") else "/proc/self"

# --- between two starts: what a new process inherits ---------------------------------

# Fields of status that change by themselves, or that a new process has of its own.
_IGNORED_FIELDS = (
    *("Name", "State", "Tgid", "Ngid", "Pid", "PPid", "TracerPid", "FDSize", "NStgid", "NSpid"),
    *("Vm", "Rss", "HugetlbPages", "CoreDumping", "Threads", "SigQ", "SigPnd", "ShdPnd", "SigCgt"),
    *("x86_Thread", "voluntary", "nonvoluntary"),
)
# What warnings call a field, by its prefix; any other field keeps its own name.
_FIELD_NAMES = {
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
# Of these, what others may set: the manager of a container, say.
_SET_BY_OTHERS = ("control group", "CPU affinity", "memory nodes")
_FILES = {
    f"{_THREAD}/attr/current": "security label",
    f"{_THREAD}/personality": "personality",
    "/proc/self/oom_score_adj": "oom_score_adj",
    "/proc/self/timerslack_ns": "timer slack",
    "/proc/self/coredump_filter": "coredump filter",
    "/proc/self/loginuid": "login",
}


def inherited_state() -> InheritedState:
    """Return what a new process inherits from the thread that starts it."""
    root = os.stat("/")
    # After chroot() there may be no /proc, in which all else could be compared.
    state: InheritedState = {"root folder": (root.st_dev, root.st_ino)}
    state.update(_status_and_cgroup(_THREAD))
    state.update(_results({name: call for name, call in _CALLS.items() if name not in state}))
    state.update(_externally_set_state(0))
    state.update((name, _read(file)) for file, name in _FILES.items())
    state.update((f"namespace ({name})", link) for name, link in _namespaces())
    return state


def _status_and_cgroup(folder: str) -> InheritedState:
    fields: Dict[str, List[str]] = {}
    for field, value in _status(folder):
        name = _field_name(field)
        if name is not None:
            fields.setdefault(name, []).append(value)
    return {"control group": _read(f"{folder}/cgroup"), **fields}


# Cached, because the state is compared at each start of workers.
@functools.lru_cache(maxsize=None)
def _field_name(field: str) -> Optional[str]:
    if field.startswith(_IGNORED_FIELDS):
        return None
    return next((name for start, name in _FIELD_NAMES.items() if field.startswith(start)), field)


def changed_name(before: InheritedState, server_pid: Optional[int]) -> Optional[str]:
    """Return the name of the first part of the inherited state that has changed, or None.

    Args:
        before: The state when the forkserver was started.
        server_pid: The forkserver. What has changed there in the same manner does not count.
    """
    now = inherited_state()
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing and server_pid is not None:
        # The manager of a container changes limits and CPU affinity of all its processes, the
        # forkserver's too. Without this, each such change would end fast starts for good. Only what
        # others can set: the forkserver itself ignores SIGINT, for one, which its forks do not.
        status = _status_and_cgroup(f"/proc/{server_pid}")
        server = {name: status.get(name) for name in _SET_BY_OTHERS}
        server.update(_externally_set_state(server_pid))
        server["oom_score_adj"] = _read(f"/proc/{server_pid}/oom_score_adj")
        differing = [n for n in differing if n not in now or server.get(n) != now[n]]
    return next(iter(differing), None)


def _ignored_signals() -> List[int]:
    return [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN]


def _limits(pid: int) -> List[Tuple[int, int]]:
    import resource

    kinds = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
    if pid:
        return [resource.prlimit(pid, kind) for kind in kinds]
    return [resource.getrlimit(kind) for kind in kinds]


def _externally_set_state(pid: int) -> InheritedState:
    """Return what status does not show and other processes may set. A pid of 0: this process."""
    calls: Dict[str, Callable[[], object]] = {
        "limits (ulimit)": lambda: _limits(pid),
        "priority (nice)": lambda: os.getpriority(os.PRIO_PROCESS, pid),
        "scheduling policy": lambda: (
            os.sched_getscheduler(pid),
            os.sched_getparam(pid).sched_priority,
        ),
    }
    return _results(calls)


def _results(calls: Dict[str, Callable[[], object]]) -> InheritedState:
    results = {}
    for name, call in calls.items():
        with contextlib.suppress(OSError, AttributeError, ImportError):  # not on each platform
            results[name] = call()
    return results


def set_priority(pid: int, priority: int) -> None:
    """Set the priority of all threads of a process, as far as the system lets it.

    Raises:
        OSError: There is no such process, or its threads can't be seen.
    """
    for number in map(int, os.listdir(f"/proc/{pid}/task")):
        with contextlib.suppress(OSError):
            if os.getpriority(os.PRIO_PROCESS, number) != priority:
                os.setpriority(os.PRIO_PROCESS, number, priority)


# Called only where status does not show them: it takes a system call for each.
_CALLS: Dict[str, Callable[[], object]] = {
    "user ids": lambda: (os.getuid(), os.geteuid()),
    "group ids": lambda: (os.getgid(), os.getegid()),
    "groups": lambda: os.getgroups(),
    "process group": lambda: os.getpgrp(),
    "session": lambda: os.getsid(0),
    "ignored signals": _ignored_signals,
    "blocked signals": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    "CPU affinity": lambda: os.sched_getaffinity(0),
}

# --- around the import: what a fork lacks, or shares --------------------------------


def unforkable_resources() -> Set[Resource]:
    """Return what this process has that its forks would share or lack."""
    resources: Set[Resource] = {
        ("another process group", os.getpgrp()),
        ("another session", os.getsid(0)),
        ("another control group", _read(f"{_THREAD}/cgroup")),
        ("locked memory", dict(_status(_THREAD)).get("VmLck")),
    }
    resources.update((f"a namespace ({name})", link) for name, link in _namespaces())
    resources.update(
        ("a timer", each) for each in ("\n" + _read("/proc/self/timers")).split("\nID: ")[1:]
    )
    resources.update(("subprocesses", pid) for pid in _read(f"{_THREAD}/children").split())
    return resources.union(_shared_memory())


def new_resource(before: Set[Resource]) -> Optional[str]:
    """Return the name of one resource that this process has created since, or None."""
    # A lock also starts multiprocessing's resource tracker, which is a subprocess. The first name
    # in alphabetical order is the lock, which users know, not the tracker.
    return min((name for name, _ in unforkable_resources() - before), default=None)


def _shared_memory() -> Iterator[Resource]:
    """Yield the mappings in which forks see each other's writes. Semaphores are in such ones."""
    # Not splitlines(): a path may contain a character that it takes for the end of a line.
    for line in filter(None, _read("/proc/self/maps").split("\n")):
        _, access, *where = line.split(None, 5)
        path = where[3] if len(where) > 3 else ""
        # CUDA and the like map devices: selftest.py asks torch about them, which knows better.
        is_device = path.startswith("/dev/") and not path.startswith(("/dev/shm/", "/dev/zero"))
        if access[1] == "w" and access[3] == "s" and not is_device:
            is_lock = path.startswith("/dev/shm/sem.")
            yield "a lock or semaphore" if is_lock else "shared memory", tuple(where[1:])


def open_descriptors() -> Dict[int, str]:
    """Return the paths of open files and connections by their descriptors, where shown."""
    paths = {}
    with contextlib.suppress(OSError):
        for number in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                mode = os.fstat(number).st_mode
                if not (stat.S_ISCHR(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode)):
                    paths[number] = os.readlink(f"/proc/self/fd/{number}")
    return paths


# --- threads ----------------------------------------------------------------------

# jemalloc's, which pandas, scikit-learn and others bring along with pyarrow. It has fork handlers
# of its own, so its forks do without the thread.
_FORK_SAFE_THREADS = {"jemalloc_bg_thd"}
_THREAD_EXIT_SECONDS = 1


def threads_lost_by_fork() -> List[str]:
    """Return, in a fork, the names of the threads that its parent has and it lacks.

    Libraries that expect forks end their threads before one, as OpenBLAS does, or start them
    again in the child.
    """
    deadline = time.monotonic() + _THREAD_EXIT_SECONDS
    while True:
        lost = _thread_names(os.getppid()) - _thread_names(os.getpid())
        names = sorted(name for name in lost if name not in _FORK_SAFE_THREADS)
        if not names or time.monotonic() > deadline:
            return names
        # A thread that a library has just ended for the fork may still be listed. To take it for
        # a lost one would make all workers slow ones.
        time.sleep(0.01)


def _thread_names(pid: int) -> Counter[str]:
    names: Counter[str] = Counter()
    process_name = _comm(pid, pid)
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            name = _comm(pid, int(task))
            # A thread that is given no name has that of its process.
            names["of native code" if name == process_name else name] += int(task) != pid
    return names


def thread_states(pid: int) -> Optional[Tuple[Set[bytes], int]]:
    """Return the states of a process's threads, and the processor time of its first in ticks.

    Returns:
        None where that can't be seen: not on Linux, or a thread has just ended.
    """
    states, ticks = set(), 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/stat", "rb") as file:
                # The second field is a name in brackets, which may contain spaces and brackets.
                fields = file.read().rpartition(b")")[2].split()
            states.add(fields[0])
            if task == str(pid):
                ticks = int(fields[11]) + int(fields[12])
    except OSError:
        return None
    return states, ticks


def _comm(pid: int, task: int) -> str:
    return _read(f"/proc/{pid}/task/{task}/comm")


# --- /proc --------------------------------------------------------------------------


def _read(path: str) -> str:
    """Return the text of a file, or "" where there is none or it may not be read."""
    parts: List[bytes] = []
    with contextlib.suppress(OSError):
        # Not open(), which takes three times as long: twenty files are read at each start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
