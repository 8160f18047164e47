"""A script: makes calls in processes of this machine, which another machine asks for by files.

Usage: elsewhere_jobs.py machine | work FILE. The other end is ``start``, which takes the place
of what starts a probe's workers; its files lie in a folder that both machines see.
"""

import pickle
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from limits import WAIT_SECONDS

from wandb_ddp_patch.probes import multiprocess
from wandb_ddp_patch.runs import state

HERE = Path.cwd()  # probes go elsewhere


def write(path, content):
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.rename(path)


def await_that(true, seconds):
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# --- the machine that asks ----------------------------------------------------


class Job:
    """A call that is made elsewhere: what the probes want of a process, and of its pipe."""

    exitcode = None

    def __init__(self, content):
        self._path = HERE / uuid.uuid4().hex
        write(self._path.with_suffix(".job"), content)

    def poll(self, seconds):
        return await_that(self._path.with_suffix(".done").exists, seconds)

    def recv(self):
        return pickle.loads(self._path.with_suffix(".done").read_bytes())

    def join(self, seconds):
        await_that(self._path.with_suffix(".ended").exists, seconds)

    def kill(self):
        """The machine ends it, when it ends itself."""


def start(method, function, args):
    """Have a call made elsewhere; see probes.multiprocess._start."""
    # Not multiprocessing's pickler: what torch teaches it is for one machine.
    job = Job(pickle.dumps((method, function, pickle.dumps(args))))
    return job, job


class Semaphore:
    """One that processes of two machines share: a file for each release."""

    def __init__(self):
        self._folder = HERE / uuid.uuid4().hex
        self._folder.mkdir()

    def release(self):
        (self._folder / uuid.uuid4().hex).touch()

    def _take(self):
        for file in self._folder.iterdir():
            try:
                file.unlink()
            except FileNotFoundError:
                continue
            return True
        return False

    def acquire(self, timeout):
        return await_that(self._take, timeout)


class Event:
    """One that processes of two machines share."""

    def __init__(self):
        self._path = HERE / uuid.uuid4().hex

    def set(self):
        self._path.touch()

    def wait(self):
        assert await_that(self._path.exists, WAIT_SECONDS), "what is waited for did not come"


class Context:
    """What stands for a context of multiprocessing, where a probe wants one to wait with."""

    def Semaphore(self, value):
        assert value == 0
        return Semaphore()

    Event = Event


# --- the machine that is asked ------------------------------------------------


def machine():
    """Make each call in a fresh process, as something that starts workers does."""
    running = {}
    while True:
        for job in HERE.glob("*.job"):
            taken = job.rename(job.with_suffix(".taken"))
            folder = tempfile.mkdtemp()
            command = [sys.executable, __file__, "work", str(taken)]
            running[taken] = subprocess.Popen(command, cwd=folder)
        for taken, process in list(running.items()):
            if process.poll() is not None:
                done = taken.with_suffix(".done")
                if not done.exists():
                    died = f"died, exit code {process.returncode}"
                    write(done, pickle.dumps((False, died)))
                taken.with_suffix(".ended").touch()
                del running[taken]
        time.sleep(0.01)


def work(path):
    """Make a call; where it is for a fork or a forkserver's child, by a worker of this worker."""
    method, function, pickled = pickle.loads(Path(path).read_bytes())
    try:
        args = pickle.loads(pickled)
        if method == "spawn":
            result = _by_the_tunnel(function, args)
        else:
            result = multiprocess.in_worker(_by_the_tunnel, function, args, method=method)
        done = True, result
    except Exception as error:
        done = False, f"{type(error).__name__}: {error}"
    write(Path(path).with_suffix(".done"), pickle.dumps(done))


def _by_the_tunnel(function, args):
    result = function(*args)
    # Else it would prove nothing of other machines.
    for run in state.live_runs():
        ours = state.get_state(run)
        if not ours.is_worker or ours.payload["finished"] or ours.payload["metadata"]["disabled"]:
            continue
        name = type(ours.transport).__name__
        assert name == "TunnelTransport", f"the transport is {name}"
    return result


if __name__ == "__main__":
    {"machine": machine, "work": work}[sys.argv[1]](*sys.argv[2:])
