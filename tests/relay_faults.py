"""A script for test_relay_faults.py, on releases with a relay: what goes wrong at the owner's.

Usage: relay_faults.py METHOD CASE. Plays as faulty_workers.py does.
"""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from multiprocessing import connection

import wandb
from faulty_workers import ROWS, log, main, say, start_and_join
from limits import AT_ONCE_SECONDS, WAIT_SECONDS

import wandb_ddp_patch  # noqa: F401
from wandb_ddp_patch.borrowed import serving

# --- a call that waits for the network ---------------------------------------

others_are_done = threading.Event()
asked = threading.Event()


class Slow(wandb.Html):
    """What a row holds; to write it down, the owner asks the network."""

    def bind_to_run(self, *args, **kwargs):
        asked.set()
        say("asked", others_are_done.wait(WAIT_SECONDS))
        return super().bind_to_run(*args, **kwargs)


def log_slow(run):
    run.log({"slow": Slow("<b>bold</b>")})
    run.log({"after": 1})


def case_network(context, run):
    slow = context.Process(target=log_slow, args=(run,))
    slow.start()
    assert asked.wait(WAIT_SECONDS)
    other = context.Process(target=log, args=(run, "other"))
    other.start()
    other.join(WAIT_SECONDS)
    run.log({"owner": 1})  # nor does the owner wait
    say("other", other.exitcode)
    others_are_done.set()
    slow.join(WAIT_SECONDS)
    say("slow", slow.exitcode)


# --- threads and descriptors --------------------------------------------------


def case_no_thread(context, run):
    """Each third thread can't be started."""
    start, count = threading.Thread.start, [0]

    def start_some(self):
        if getattr(self, "_target", None) and self._target.__name__ == "_serve":
            count[0] += 1
            if count[0] % 3 == 1:
                raise RuntimeError("can't start new thread")
        start(self)

    threading.Thread.start = start_some
    workers = [context.Process(target=log, args=(run, f"worker {n}")) for n in range(4)]
    start_and_join(workers)


def case_strangers(context, run):
    serving._PROOF_SECONDS = 5
    run.log({"before": 1})
    address = serving.address()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    code = (
        "import socket, sys\n"
        "sockets = [socket.socket(socket.AF_UNIX) for _ in range(200)]\n"
        f"for one in sockets:\n    one.connect({address!r})\n"
        "print('there', flush=True)\nsys.stdin.read()"
    )
    pipe = subprocess.PIPE
    strangers = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe)
    strangers.stdout.readline()
    begun = time.monotonic()
    start_and_join([context.Process(target=log, args=(run, "worker"))])
    say("in time", time.monotonic() - begun < 3 * AT_ONCE_SECONDS)
    deadline = time.monotonic() + WAIT_SECONDS
    while threading.active_count() > threads + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    say("threads", threading.active_count() <= threads + 2)
    say("descriptors", len(os.listdir("/proc/self/fd")) <= descriptors + 4)
    strangers.communicate(b"")


def ask_as_another_user(address):
    os.setuid(65534)
    try:
        connection.Client(address, authkey=multiprocessing.current_process().authkey)
    except (EOFError, OSError):
        sys.exit(3)


def case_another_user(context, run):
    start_and_join([context.Process(target=ask_as_another_user, args=(serving.address(),))])


# --- an owner that takes its time ---------------------------------------------


def case_stopped(context, run):
    """The owner is stopped for longer than workers used to wait (30 s)."""
    started = context.Event()
    worker = context.Process(target=log_slowly, args=(run, started))
    worker.start()
    assert started.wait(WAIT_SECONDS)
    code = (
        "import os, signal, sys, time; p = int(sys.argv[1]); os.kill(p, signal.SIGSTOP);"
        f" time.sleep({STOPPED_SECONDS}); os.kill(p, signal.SIGCONT)"
    )
    subprocess.Popen([sys.executable, "-c", code, str(os.getpid())]).wait()
    worker.join(WAIT_SECONDS)
    say([worker.exitcode])


STOPPED_SECONDS = 33


def log_slowly(run, started):
    for i in range(ROWS):
        run.log({"worker": i})
        started.set()
        time.sleep(0.1)


if __name__ == "__main__":
    main(globals())
