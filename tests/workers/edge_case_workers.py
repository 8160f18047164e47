"""A script for test_edge_cases.py, on any release: a worker that is more than a worker.

Usage: edge_case_workers.py METHOD CASE. It has runs of several owners, forks, is interrupted by
signals, or sends what its owner can't load. Of a run that is shared it may think that it is
on another machine.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time

import wandb
from faulty_workers import join, log, main, say, start_and_join
from limits import AT_ONCE_SECONDS, WAIT_SECONDS

import wandb_ddp_patch
from wandb_ddp_patch.runs import state
from wandb_ddp_patch.transports import selection


def shared(run):
    wandb_ddp_patch.share(run, host="127.0.0.1")
    return pickle.dumps(run)


def elsewhere(payload):
    """Load a run as on another machine than its owner's."""
    is_same_host, selection.is_same_host = selection.is_same_host, lambda known: False
    try:
        return pickle.loads(payload)
    finally:
        selection.is_same_host = is_same_host


def in_worker(context, function, *arguments):
    start_and_join([context.Process(target=function, args=arguments)])


# --- a worker elsewhere forks -------------------------------------------------


def fork_elsewhere(payload):
    run = elsewhere(payload)
    run.log({"worker 0": 0})
    in_worker(multiprocessing.get_context("fork"), log, run, "fork")


def case_fork_elsewhere(context, run):
    in_worker(context, fork_elsewhere, shared(run))


def fork_while_connecting(payload):
    """Its owner does not answer, and a thread waits for that: a fork does not."""
    run = elsewhere(payload)
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(8)
    tied = state.get_state(run)
    tied.payload["share"] = {**tied.payload["share"], "port": silent.getsockname()[1]}
    threading.Thread(target=log, args=(run, "thread"), daemon=True).start()
    time.sleep(1)
    begun = time.monotonic()
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    say(time.monotonic() - begun < AT_ONCE_SECONDS)
    sys.stdout.flush()
    os._exit(0)


def case_fork_while_connecting(context, run):
    in_worker(context, fork_while_connecting, shared(run))


# --- runs of several owners -----------------------------------------------------


def own_another(payloads, ended):
    run = wandb.init(mode="offline", project="p")
    payloads.put(shared(run))
    assert ended.wait(WAIT_SECONDS)
    run.finish()


def use_both(far, near):
    far, near = elsewhere(far), pickle.loads(near)
    for run, name in ((far, "far"), (near, "near"), (far, "far, again")):
        log(run, name)


def case_two_owners(context, run):
    payloads, ended = context.Queue(), context.Event()
    other = context.Process(target=own_another, args=(payloads, ended))
    other.start()
    far = payloads.get(timeout=WAIT_SECONDS)
    in_worker(context, use_both, far, pickle.dumps(run))
    ended.set()
    join([other])


def use_one(payload):
    log(elsewhere(payload), "worker 0")


def count():
    from wandb_ddp_patch.runs import flush
    from wandb_ddp_patch.transports import local, tunnel

    return len(flush.registered()), len(tunnel._endpoints) + len(local._connections)


def case_run_after_run(context, run):
    with context.Pool(1) as pool:
        for _ in range(4):
            pool.apply(use_one, (shared(run),))
            run.finish()
            run = wandb.init(mode="offline", project="p")
        say(*pool.apply(count))


def use_and_leave(run):
    log(run, "worker 0")
    run.finish()


def case_near_run_after_run(context, run):
    with context.Pool(1) as pool:
        for _ in range(4):
            pool.apply(use_and_leave, (run,))
            run.finish()
            run = wandb.init(mode="offline", project="p")
        say(*pool.apply(count))


# --- what comes between -----------------------------------------------------------


def log_in_a_handler(run):
    signals = []

    def handler(number, frame):
        run.log({"signal": len(signals)})
        signals.append(number)

    signal.signal(signal.SIGALRM, handler)
    begun, rows = time.monotonic(), 0
    while time.monotonic() < begun + 3:
        if rows % 5 == 0:
            signal.setitimer(signal.ITIMER_REAL, 0.003 + 0.0007 * (rows % 30))
        run.log({"worker 0": rows})
        rows += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    say(rows, len(signals))


def case_log_in_a_handler(context, run):
    in_worker(context, log_in_a_handler, run)


def log_while_connecting(run):
    from wandb_ddp_patch.transports import local

    def interrupted(run):
        signal.raise_signal(signal.SIGALRM)
        set_global_run(run)

    set_global_run, local.set_global_run = local.set_global_run, interrupted
    signal.signal(signal.SIGALRM, lambda number, frame: run.log({"signal": 0}))
    run.log({"worker 0": 0})


def case_log_while_connecting(context, run):
    in_worker(context, log_while_connecting, run)


MODULE = """
import os, sys
if os.environ["OWNER"] == str(os.getpid()):
    sys.exit(2)
class Number(float):
    pass
"""


def send_what_exits(run):
    import script_of_the_users

    try:
        run.log({"worker 0": script_of_the_users.Number(1)})
    except Exception as error:
        say("SystemExit: 2" in str(error))
    log(run, "worker 0")


def case_send_what_exits(context, run):
    with open("script_of_the_users.py", "w") as file:
        file.write(MODULE)
    os.environ["OWNER"] = str(os.getpid())
    os.environ["PYTHONPATH"] += os.pathsep + os.getcwd()
    sys.path.append(os.getcwd())
    in_worker(context, send_what_exits, run)


def case_blocked_modules(context, run):
    """None among the modules, which blocks an import, from before and from after a fork."""
    run.log({"before": 0})
    sys.modules["wandb.blocked"] = None
    in_worker(context, log, run, "worker 0")
    locks = sys.modules["wandb_ddp_patch.handover.fork"]
    # Those that wandb itself does not need to go on.
    for name in ("wandb.integration.weave.weave", "wandb.vendor.pynvml.pynvml"):
        if locks._locks.get(name):
            say("blocked")
            sys.modules[name] = None
    in_worker(context, log, run, "worker 1")


if __name__ == "__main__":
    main(globals())
