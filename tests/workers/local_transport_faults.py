"""A script for test_local_transport_faults.py, on releases up to 0.12: what goes wrong.

Usage: local_transport_faults.py METHOD CASE. Plays as faulty_workers.py does.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import wandb
from faulty_workers import ROWS, log, main, say, start_and_join
from limits import AT_ONCE_SECONDS, SOON_SECONDS, WAIT_SECONDS

import wandb_ddp_patch  # noqa: F401
from wandb_ddp_patch.runs import state
from wandb_ddp_patch.transports import local_server

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


def log_lists(run, name):
    for i in range(ROWS):
        run.log({name: [i]})


def case_no_thread(context, run):
    """Two of three threads can't be started."""
    start, count, owner = threading.Thread.start, [0], os.getpid()

    def start_some(self):
        if os.getpid() == owner and getattr(self._target, "__name__", "") == "_serve":
            count[0] += 1
            if count[0] % 3:
                raise RuntimeError("can't start new thread")
        start(self)

    threading.Thread.start = start_some
    names = [f"worker {n}" for n in range(4)]
    start_and_join([context.Process(target=log_lists, args=(run, name)) for name in names])
    say(count[0] > 0)


def address_of(run):
    return local_server.listen_local(state.ensure_owner_state(run))


def case_strangers(context, run):
    run.log({"before": 1})
    address = address_of(run)
    threads = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
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
    while len(os.listdir("/proc/self/fd")) > descriptors + 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    say("descriptors", len(os.listdir("/proc/self/fd")) <= descriptors + 4)
    say("threads", threading.active_count() <= threads + 1)
    strangers.communicate(b"")


def ask_as_another_user(run):
    os.setuid(65534)
    try:
        run.log({"stranger": 1})
    except wandb.errors.UsageError as error:
        sys.exit(3 if "different users" in str(error) else 4)


def case_another_user(context, run):
    start_and_join([context.Process(target=ask_as_another_user, args=(run,))])


def ask_as_another_user_of_windows(run):
    os.setuid(65534)
    del os.geteuid
    try:
        run.log({"stranger": 1})
    except wandb.errors.UsageError as error:
        sys.exit(3 if "has finished it, or has ended" in str(error) else 4)


def case_another_user_of_windows(context, run):
    start_and_join([context.Process(target=ask_as_another_user_of_windows, args=(run,))])


def ask_without_the_key(run):
    multiprocessing.current_process().authkey = b"another tree's"
    try:
        run.log({"stranger": 1})
    except wandb.errors.UsageError as error:
        say(str(error).split(", because ")[1].split(". ")[0])


def case_no_key(context, run):
    start_and_join([context.Process(target=ask_without_the_key, args=(run,))])


# --- workers that end in the middle of it --------------------------------------


def log_and_die(run, name):
    log(run, name)
    os.kill(os.getpid(), signal.SIGKILL)


def case_die(context, run):
    start_and_join([context.Process(target=log_and_die, args=(run, f"worker {n}")) for n in (0, 1)])
    begun = time.monotonic()
    run.finish()
    say("at once", time.monotonic() - begun < AT_ONCE_SECONDS)


def case_die_before_it_is_made(context, run):
    """The owner is about to write its row, and to finish the run, when the worker dies."""
    worker = context.Process(target=log_slow, args=(run,))
    worker.start()
    assert asked.wait(WAIT_SECONDS)
    worker.kill()
    worker.join()
    threading.Timer(1, others_are_done.set).start()


def stopped_at_the_end(run, stopped):
    log(run, "worker")
    stopped.set()
    os.kill(os.getpid(), signal.SIGSTOP)


def case_stopped_worker(context, run):
    stopped = context.Event()
    worker = context.Process(target=stopped_at_the_end, args=(run, stopped))
    worker.start()
    assert stopped.wait(WAIT_SECONDS)
    begun = time.monotonic()
    run.finish()
    say("soon", time.monotonic() - begun < SOON_SECONDS)
    worker.kill()
    worker.join()


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
