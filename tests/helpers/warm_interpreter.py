"""An interpreter that has imported modules, and whose forks run scripts: see warm_scripts.py.

Usage: warm_interpreter.py NAME MODULE... For each connection it forks a process that runs one
script and says on the connection what its number is, and then how it has ended.

A fork has nothing of the script's before it: no package of ours, no run, no forkserver. What it
starts by multiprocessing's spawn comes from forks made before the script began, as many as are
asked for: they have what a new interpreter has after `import torch`. A forkserver, and any other
process, is a new interpreter.
"""

import ctypes
import fcntl
import importlib
import importlib.machinery
import json
import multiprocessing.spawn
import multiprocessing.util
import os
import select
import signal
import socket
import sys
import types

# A message of a socket takes no more than 253 descriptors.
MOST = 200


def serve(name, modules):
    """Import the modules, and serve until standard input ends; return only in forks."""
    sys.path.pop(0)  # this folder, which no script has
    for module in modules:
        importlib.import_module(module)
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"\0{name}")  # which no file stands for
    server.listen()
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([server, 0], [], [], 1)
        if 0 in ready:
            os._exit(0)
        if server in ready:
            connection, _ = server.accept()
            if not os.fork():
                end_with_parent()
                server.close()
                return supervise(connection)
            connection.close()
        reap()


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def supervise(connection):
    """Fork the process of a script, and wait for its end; return only in that process."""
    with connection, connection.makefile("rw") as stream:
        request = json.loads(stream.readline())
        pid = os.fork()
        if pid:
            print(pid, file=stream, flush=True)
            _, status = os.waitpid(pid, 0)
            print(os.waitstatus_to_exitcode(status), file=stream, flush=True)
            os._exit(0)
    end_with_parent()
    run(request)


def end_with_parent():
    """Have the system kill this process when its parent ends: no script outlives the tests."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# --- in the process of a script -------------------------------------------------


def run(request):
    take(request["streams"], request["env"], request["folder"])
    if not prefork(request["spawns"]):
        return
    script, code = request["script"], request["code"]
    sys.argv = [script or "-c", *request["args"]]
    sys.path.insert(0, os.path.dirname(script or ""))
    multiprocessing.process.ORIGINAL_DIR = request["folder"]
    # multiprocessing makes the second when it is imported: what workers pickle names it.
    main = sys.modules["__main__"] = sys.modules["__mp_main__"] = types.ModuleType("__main__")
    if script:
        main.__file__ = script
        main.__loader__ = importlib.machinery.SourceFileLoader("__main__", script)
    exec(compile(code, script or "<string>", "exec"), vars(main))


def take(streams, env, folder):
    """Make this process's streams, environment and folder what it would have been started with."""
    for number, (path, flags) in enumerate(streams):
        file = os.open(path, flags)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)


def prefork(count):
    """Fork what will be the spawned processes of this one; return False in those, at their end."""
    spares = []
    for _ in range(count):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if not pid:
            for each in (ours, *(other for other, _ in spares)):
                each.close()
            become_spawned(theirs)
            return False
        theirs.close()
        spares.append((ours, pid))
    upstream = multiprocessing.util.spawnv_passfds

    def spawnv_passfds(path, args, passfds):
        if not spares or args[-1] != "--multiprocessing-fork":
            return upstream(path, args, passfds)
        connection, pid = spares.pop(0)
        numbers = [0, 1, 2, *passfds]
        start = {"code": args[-2], "numbers": numbers, "env": dict(os.environ), "dir": os.getcwd()}
        data = json.dumps(start).encode()
        with connection:
            for first in range(0, len(numbers), MOST):
                socket.send_fds(connection, [data], numbers[first : first + MOST])
                data = b"."
        return pid

    multiprocessing.util.spawnv_passfds = spawnv_passfds
    return True


def become_spawned(connection):
    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, MOST)
    if not data:  # the script has spawned no more
        os._exit(0)
    start = json.loads(data)
    while len(descriptors) < len(start["numbers"]):
        descriptors += socket.recv_fds(connection, 1, MOST)[1]
    connection.close()
    # None of the numbers to be taken may be one of a descriptor that is yet to be moved there.
    highest = max(start["numbers"]) + 1
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, highest) for number in descriptors]
    for number in descriptors:
        os.close(number)
    for number, there in zip(moved, start["numbers"]):
        os.dup2(number, there)
        os.close(number)
    take([], start["env"], start["dir"])
    sys.argv = ["-c", "--multiprocessing-fork"]
    exec(start["code"], {})


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
