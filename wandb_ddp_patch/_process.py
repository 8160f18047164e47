"""What identifies a process and a machine, and whether a process has ended.

A process's number tells little: another one may have it by now, or in another container. What
is more can be told only on Linux and Windows, and only of processes that this one could see.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from typing import Any, List, Optional

from .errors import RunUnreachableError


def process_fingerprint(pid: Optional[int] = None) -> Optional[str]:
    """Return what identifies a process: machine and boot, namespace of numbers, number, start.

    Args:
        pid: Its number; by default this process.

    Returns:
        Four words; None where there is no process of that number, or it can't be told.
    """
    with contextlib.suppress(OSError):
        return _look_at(pid or os.getpid())
    return None


def _look_at(pid: int) -> Optional[str]:
    """Return a process's fingerprint, or None if it has ended.

    Raises:
        OSError: It can't be told.
    """
    if sys.platform == "win32":
        return _on_windows(pid)
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    namespace = os.readlink("/proc/self/ns/pid")
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # After the name, which may hold anything, also half a character; the 22nd of all.
            fields = file.read().rpartition(b")")[2].decode().split()
    except ProcessLookupError:
        return None  # it has ended while its file was read
    except FileNotFoundError:
        if _is_number_taken(pid):
            raise  # mounted with hidepid=2, /proc hides the processes of other users
        return None
    # A zombie: it has ended, and waits for its parent to see that. Were it taken for alive, who
    # waits for its end would wait for as long as its parent is busy.
    if fields[0] in "XZ":
        return None
    return f"{boot} {namespace} {pid} {fields[19]}"


def _is_number_taken(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # by a process of another user
    return True


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
    """Return what identifies the machine that this process is on, for :func:`is_same_host`."""
    folder = tempfile.gettempdir()
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        host = f"{boot} {os.readlink('/proc/self/ns/net')}"
    except OSError:
        import platform  # late, as uuid: only where there is no /proc
        import uuid

        host = f"{platform.node().replace(' ', '-')} {uuid.getnode()}"
    return f"{host} {_device_and_inode(folder)} {folder}"


def _device_and_inode(folder: str) -> str:
    try:
        found = os.stat(folder)
    except OSError:
        return "-"
    return f"{found.st_dev}:{found.st_ino}"


def is_same_host(fingerprint: str) -> bool:
    """Return True if a machine is this one, so that its services are reached from here.

    A container, or a network namespace of its own on the same machine, is another one. So is
    one that does not see the same temporary folder, where the services' sockets are.
    """
    ours, theirs = host_fingerprint().split(" ", 3), fingerprint.split(" ", 3)
    # Their folder, by its path here: ours may be another one of the same machine.
    return ours[:2] == theirs[:2] and theirs[2] == _device_and_inode(theirs[3])


def is_this_process(pid: Optional[int], fingerprint: Optional[str]) -> bool:
    """Return True if this is the process with a number, and a fingerprint where that is known."""
    if pid != os.getpid():
        return False
    # Two containers may both have a process 1.
    here = process_fingerprint() if fingerprint else None
    return here is None or here == fingerprint


def has_exited(fingerprint: Optional[str]) -> bool:
    """Return True if a process has ended for sure.

    Args:
        fingerprint: What identified it when it lived; None where that is not known.
    """
    here = process_fingerprint()
    if fingerprint is None or here is None:
        return False
    boot, namespace, pid, _ = fingerprint.split(" ")
    # Of another machine, or container: it can't be seen from here, and its number may be that
    # of another process.
    if [boot, namespace] != here.split(" ")[:2]:
        return False
    try:
        return _look_at(int(pid)) != fingerprint
    except OSError:  # another user's, say, or this process has too many files open
        return False


# A connection of wandb's takes three; imports that it does, and the owner's file, the rest.
_DESCRIPTORS = 6


def require_free_descriptors() -> None:
    """Check that this process can still open what a connection needs.

    Where it can't, a thread of wandb's own dies, and who waits for it waits for ever.

    Raises:
        RunUnreachableError: The limit of this process, or of the system, is reached.
    """
    opened: List[int] = []
    try:
        for _ in range(_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise RunUnreachableError(
                f"this process has too many files open, and needs {_DESCRIPTORS} more: close some,"
                " or raise the limit (ulimit -n)"
            ) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def raise_fd_limit() -> None:
    """Raise this process's limit of descriptors as far as the system lets it: workers take some."""
    with contextlib.suppress(Exception):  # there is none on Windows, and no such limit
        import resource

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, min(most, 1 << 16)), most))
