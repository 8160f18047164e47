"""A process that has imported wandb: each script that it is sent begins in a fork of it.

Started by prepared.py, on any release, with a socket as file descriptor 0. What comes by that is
a script's arguments, folder and environment, with its stdin, stdout and stderr; what goes back
is a script's number and process, and later its number and exit status.
"""

import array
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import types

import wandb  # noqa: F401

import wandb_ddp_patch  # noqa: F401

# What wandb.init() imports of these takes as long as to import wandb. Not each release has each.
for name in ("wandb.sdk.launch.inputs.internal", "wandb.sdk.lib.gitlib", "wandb.docker.names"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)

# wandb's, for media: the first fork that ends would remove those of all. Old releases have a class
# of that name of their own.
_FOLDERS = [each for each in gc.get_objects() if type(each).__name__ == "TemporaryDirectory"]
_FDS = 3
_MOUNTS, _NETWORK = 0x00020000, 0x40000000  # CLONE_NEWNS, CLONE_NEWNET
_LARGEST = 1 << 20


def serve():
    """Fork for what comes. It returns in a fork whose script has ended, and never here."""
    asked = socket.socket(fileno=os.dup(0))
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    running = {}
    while True:
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                asked.sendall(f"{running.pop(pid)} {code}".encode())
        ready, _, _ = select.select([asked, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        if asked not in ready:
            continue
        request, fds = _receive(asked)
        if request is None:
            sys.exit()  # the tests are over
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asked.close()
            for fd in (woken, wake):
                os.close(fd)
            return _play(fds, **request["script"])
        for fd in fds:
            os.close(fd)
        running[pid] = request["number"]
        asked.sendall(f"{request['number']} {pid}".encode())


def _receive(asked):
    fds = array.array("i")
    data, more, _, _ = asked.recvmsg(_LARGEST, socket.CMSG_SPACE(_FDS * fds.itemsize))
    for _, _, sent in more:
        fds.frombytes(sent[: len(sent) - len(sent) % fds.itemsize])
    return (json.loads(data.decode()) if data else None), list(fds)


def _play(fds, arguments, cwd, env, start_new_session=False, machine=None):
    """Be an interpreter that was started with these arguments."""
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    if start_new_session:
        os.setsid()
    if machine:
        _enter(*machine)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    _forget_this_process(cwd)
    main = types.ModuleType("__main__")
    if arguments[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], ""
        code = compile(arguments[1], "<string>", "exec")
    else:
        main.__file__ = arguments[0]
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(arguments[0]))
        with open(arguments[0], "rb") as file:
            code = compile(file.read(), arguments[0], "exec")
    # multiprocessing makes the second when it is imported: what workers pickle names it.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    exec(code, vars(main))


def _enter(network, commands):
    """Go to another machine, as ``ip netns exec`` and ``unshare -m`` do, or to a new one."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.unshare(_MOUNTS if network else _MOUNTS | _NETWORK)
    if network:
        with open(f"/run/netns/{network}") as file:
            failed = failed or libc.setns(file.fileno(), 0)
    if failed:
        raise OSError(ctypes.get_errno(), f"{network} can't be entered")
    # Else what is mounted here would be mounted everywhere.
    subprocess.check_call(["sh", "-ec", f"mount --make-rprivate /\n{commands}"])


def _forget_this_process(cwd):
    """What modules have noted of the process that imported them."""
    for name, noted in (("multiprocessing.process", "ORIGINAL_DIR"), ("tempfile", "tempdir")):
        if name in sys.modules:
            setattr(sys.modules[name], noted, cwd if noted == "ORIGINAL_DIR" else None)
    for folder in _FOLDERS:
        folder._finalizer.detach()
        folder.__init__()


if __name__ == "__main__":
    serve()
