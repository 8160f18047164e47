"""Whether a process has ended: told by more than its number, which another one may have.

Only on Linux and Windows, and only of processes that this one could see: elsewhere, nothing
is told.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from typing import Any, Optional


def process_fingerprint(pid: Optional[int] = None) -> Optional[str]:
    """Say which process one is: machine and boot, namespace of numbers, number, start.

    Args:
        pid: Its number; by default this process.

    Returns:
        None where there is none with that number, or no way to tell.

    Raises:
        PermissionError: On Windows, there is one, and it must not be looked at.
    """
    pid = pid or os.getpid()
    if sys.platform == "win32":
        return _on_windows(pid)
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        namespace = os.readlink("/proc/self/ns/pid")
        with open(f"/proc/{pid}/stat", "rb") as file:
            # After the name, which may hold anything, also half a character; the 22nd of all.
            fields = file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return None
    if fields[0] in "XZ":  # it has ended, and waits for its parent to see that
        return None
    return f"{boot} {namespace} {pid} {fields[19]}"


def _on_windows(pid: int) -> Optional[str]:
    import ctypes  # late, as these: only there
    import socket
    import uuid

    kernel: Any = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = ctypes.c_void_p
    may_query, may_wait, none_such = 0x1000, 0x100000, 87
    handle = ctypes.c_void_p(kernel.OpenProcess(may_query | may_wait, False, pid))
    if not handle:
        if ctypes.get_last_error() == none_such:  # type: ignore[attr-defined]
            return None
        raise PermissionError
    try:
        # When it began, and three more that are not needed.
        times = [ctypes.c_ulonglong() for _ in range(4)]
        known = kernel.GetProcessTimes(handle, *map(ctypes.byref, times))
        if not known or kernel.WaitForSingleObject(handle, 0) == 0:
            return None  # it has ended, and somebody holds it still
    finally:
        kernel.CloseHandle(handle)
    return f"{socket.gethostname()} {uuid.getnode()} {pid} {times[0].value}"


def host_fingerprint() -> str:
    """Say which machine this process is on, for :func:`is_here`."""
    folder = tempfile.gettempdir()
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        known = f"{boot} {os.readlink('/proc/self/ns/net')}"
    except OSError:
        import platform  # late, as uuid: only where there is no /proc
        import uuid

        known = f"{platform.node().replace(' ', '-')} {uuid.getnode()}"
    return f"{known} {_place(folder)} {folder}"


def _place(folder: str) -> str:
    try:
        found = os.stat(folder)
    except OSError:
        return "-"
    return f"{found.st_dev}:{found.st_ino}"


def is_same_host(known: str) -> bool:
    """Say whether a machine is this one: a service, and a local socket, are reached there.

    A container, or a network of its own on the same machine, is another one: unless both
    have the same temporary folder, where these sockets are.
    """
    ours, theirs = host_fingerprint().split(" ", 3), known.split(" ", 3)
    return ours[:2] == theirs[:2] and theirs[2] == _place(theirs[3])


def is_this_process(pid: Optional[int], known: Optional[str]) -> bool:
    """Say whether this is the process with a number, and an identity where that is known."""
    if pid != os.getpid():
        return False
    here = process_fingerprint() if known else None  # two containers may both have a process 1
    return here is None or here == known


def has_exited(known: Optional[str]) -> bool:
    """Say whether a process has ended for sure.

    Args:
        known: Its identity, from when it lived.
    """
    here = process_fingerprint()
    if known is None or here is None:
        return False
    boot, namespace, pid, _ = known.split(" ")
    if [boot, namespace] != here.split(" ")[:2]:
        return False  # of another machine, or container: it can't be seen from here
    try:
        return process_fingerprint(int(pid)) != known
    except PermissionError:
        return False


def raise_fd_limit() -> None:
    """Raise this process's limit of descriptors as far as the system lets it: workers take some."""
    with contextlib.suppress(Exception):  # there is none on Windows, and no such limit
        import resource

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, min(most, 1 << 16)), most))
