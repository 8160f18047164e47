"""A script for test_faults.py, on any release: what goes wrong, or might.

Usage: faulty_workers.py METHOD CASE. Says in the file "said" what was seen in the
workers: wandb may have put itself between us and stdout, and end before it.
"""

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time

import wandb
from limits import AT_ONCE_SECONDS, SOON_SECONDS, WAIT_SECONDS

import wandb_ddp_patch  # noqa: F401

ROWS = 50


def say(*what):
    with open("said", "a") as file:
        file.write(" ".join(map(str, what)) + "\n")


def log(run, name, rows=ROWS):
    for i in range(rows):
        run.log({name: i})


def until_told(run, name):
    """Log until that fails; return the error and when it came."""
    while True:
        try:
            run.log({name: 1})
        except wandb.errors.UsageError as error:
            return str(error), time.time()
        time.sleep(0.001)


# --- a worker is killed -----------------------------------------------------


def killed(run, logged):
    log(run, "killed")
    run.summary.get("killed")  # a round trip: what was logged before has arrived
    logged.set()
    while True:
        run.log({"killed": -1})


def case_killed(context, run):
    logged = context.Event()
    victim = context.Process(target=killed, args=(run, logged))
    others = [context.Process(target=log, args=(run, f"worker {n}")) for n in range(2)]
    for worker in [victim, *others]:
        worker.start()
    assert logged.wait(WAIT_SECONDS)
    os.kill(victim.pid, signal.SIGKILL)
    join([victim, *others])


# --- the owner finishes, or is killed, while they log -----------------------


def told(run, name, started, results):
    run.log({name: 0})
    started.release()
    error, at = until_told(run, name)
    right = "has finished it" in error and "wait for its workers, for example with join()" in error
    results.put((run.id in error and right, at))


def case_finished(context, run):
    started, results = context.Semaphore(0), context.Queue()
    args = (started, results)
    workers = [context.Process(target=told, args=(run, f"worker {n}", *args)) for n in range(2)]
    for worker in workers:
        worker.start()
    for _ in workers:
        assert started.acquire(timeout=WAIT_SECONDS)
    begun = time.time()
    run.finish()
    finished = time.time()
    for _ in workers:
        right, at = results.get(timeout=WAIT_SECONDS)
        say(right, at - finished < AT_ONCE_SECONDS)
    say("finish", finished - begun < SOON_SECONDS)
    join(workers)


def orphan(run, name, started):
    with open(name, "w") as file:
        run.log({name: 0})
        print(os.getpid(), file=file, flush=True)
        started.release()
        error, at = until_told(run, name)
        print("has finished it" in error, at, file=file, flush=True)


def case_orphans(context, run):
    started = context.Semaphore(0)
    for n in range(2):
        context.Process(target=orphan, args=(run, f"worker {n}", started)).start()
    for _ in range(2):
        assert started.acquire(timeout=WAIT_SECONDS)
    with open("killed", "w") as file:
        file.write(str(time.time()))
    os.kill(os.getpid(), signal.SIGKILL)


def case_service_killed(context, run):
    started, results = context.Semaphore(0), context.Queue()
    worker = context.Process(target=until_service_ends, args=(run, started, results))
    worker.start()
    assert started.acquire(timeout=WAIT_SECONDS)
    (service,) = services()
    os.kill(service, signal.SIGKILL)
    say("W&B's service has ended" in results.get(timeout=WAIT_SECONDS))
    join([worker])
    os.kill(os.getpid(), signal.SIGKILL)


def until_service_ends(run, started, results):
    run.log({"worker 0": 0})
    started.release()
    results.put(until_told(run, "worker 0")[0])


def case_service_killed_first(context, run):
    started = context.Semaphore(0)
    context.Process(target=orphan, args=(run, "worker 0", started)).start()
    assert started.acquire(timeout=WAIT_SECONDS)
    (service,) = services()
    os.kill(service, signal.SIGKILL)
    time.sleep(0.2)
    with open("killed", "w") as file:
        file.write(str(time.time()))
    os.kill(os.getpid(), signal.SIGKILL)


# --- limits of a worker, and a service that stands still -------------------------


def few_descriptors(run, name):
    import resource

    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    for left in range(4):
        limit = len(os.listdir("/proc/self/fd")) - 1 + left
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, old[1]))
        begun = time.monotonic()
        try:
            run.log({name: -1})
        except wandb.errors.UsageError as error:
            told = "too many files open" in str(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
        say(told, time.monotonic() - begun < AT_ONCE_SECONDS)
    log(run, name)


def case_few_descriptors(context, run):
    start_and_join([context.Process(target=few_descriptors, args=(run, "worker 0"))])


def log_to_a_frozen_service(run, name, logged, frozen):
    from wandb_ddp_patch.transports import service

    service._FLUSH_SECONDS = service._LONG_FLUSH_SECONDS = 2
    run.log({name: 0})
    logged.set()
    assert frozen.wait(WAIT_SECONDS)
    for i in range(1, ROWS):
        run.log({name: i})
    # Where its end would say it, nobody would read it.
    warn, wandb.termwarn = wandb.termwarn, lambda text, *_, **__: say(text.split(": ", 1)[1])
    run.finish()
    wandb.termwarn = warn


def log_and_be_interrupted(run, name):
    from wandb_ddp_patch.transports import service

    ask = service.ServiceBarrier._ask

    def interrupt(barrier):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        ask(barrier)

    log(run, name)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    service.ServiceBarrier._ask = interrupt
    warn, wandb.termwarn = wandb.termwarn, lambda text, *_, **__: say(text.split(": ", 1)[1])
    try:
        run.finish()
    except KeyboardInterrupt:
        say("interrupted")
    wandb.termwarn = warn


def case_interrupted(context, run):
    start_and_join([context.Process(target=log_and_be_interrupted, args=(run, "worker 0"))])


def services():
    """The processes that this one has started and that are wandb's."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/cmdline") as command:
                parent, line = stat.read().rsplit(")", 1)[1].split()[1], command.read()
        except OSError:
            continue
        if int(parent) == os.getpid() and ("wandb-core" in line or "wandb-service" in line):
            found.append(int(pid))
    return found


def case_frozen_service(context, run):
    logged, frozen = context.Event(), context.Event()
    args = (run, "worker 0", logged, frozen)
    worker = context.Process(target=log_to_a_frozen_service, args=args)
    worker.start()
    assert logged.wait(WAIT_SECONDS)
    (service,) = services()
    os.kill(service, signal.SIGSTOP)
    frozen.set()
    worker.join(WAIT_SECONDS)
    os.kill(service, signal.SIGCONT)
    say([worker.exitcode])


# --- what is rare -----------------------------------------------------------


def both(first, second, name):
    log(first, name)
    log(second, f"{name}, again", 2 * ROWS)
    assert first.id != second.id and first.config.n == 1 and second.config.n == 2


def case_two_runs(context, run):
    run.config.n = 1
    second = wandb.init(mode="offline", project="p", config={"n": 2}, reinit="create_new")
    args = [(run, second, f"worker {n}") for n in range(2)]
    start_and_join([context.Process(target=both, args=arg) for arg in args])
    second.finish()


def case_two_runs_in_turn(context, run):
    args = [(run, f"worker {n}") for n in range(2)]
    start_and_join([context.Process(target=log, args=arg) for arg in args])
    run.finish()
    run = wandb.init(mode="offline", project="p")
    args = [(run, f"worker {n}, again", 2 * ROWS) for n in range(2)]
    start_and_join([context.Process(target=log, args=arg) for arg in args])


def outer(run, n, method):
    context = multiprocessing.get_context(method)
    args = [(run, f"worker {n}.{m}") for m in range(2)]
    if n:
        log(run, f"worker {n}")
    start_and_join([context.Process(target=log, args=arg) for arg in args])
    if not n:
        log(run, f"worker {n}")


def case_nested(context, run):
    method = context.get_start_method()
    start_and_join([context.Process(target=outer, args=(run, n, method)) for n in range(2)])


def log_and_collect(run, name):
    log(run, name)
    gc.collect()


def outer_of_collecting(run):
    log(run, "outer")
    context = multiprocessing.get_context("fork")
    start_and_join([context.Process(target=log_and_collect, args=(run, "inner"))])
    say(run.summary["outer"])


def case_collecting(context, run):
    log(run, "owner")
    start_and_join([context.Process(target=outer_of_collecting, args=(run,))])
    pid = os.fork()
    if not pid:  # ends as an interpreter does, not as multiprocessing ends its forks
        log(run, "forked")
        sys.exit()
    os.waitpid(pid, 0)
    say(run.summary["owner"])


def case_sixteen(context, run):
    start_and_join([context.Process(target=log, args=(run, f"worker {n}")) for n in range(16)])


def use_and_leave(run, name, leave):
    log(run, name)
    read = run.summary[name]
    if leave:
        run.finish()
    return read, len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def case_pool(context, run):
    """One worker that uses one run after the other, and each one twice."""
    descriptors = set()
    with context.Pool(1) as pool:
        for n in range(4):
            for m in range(2):
                task = pool.apply_async(use_and_leave, (run, f"task {n}.{m}", n % 2))
                read, count = task.get(WAIT_SECONDS)
                assert read == ROWS - 1
                descriptors.add(count)
            run.finish()
            run = wandb.init(mode="offline", project="p")
    say(max(descriptors) - min(descriptors) < 3)


def fork_while_attaching(run):
    context = multiprocessing.get_context("fork")
    threads = [threading.Thread(target=log, args=(run, f"thread {n}")) for n in range(3)]
    workers = [context.Process(target=log, args=(run, f"worker {n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    start_and_join(workers)
    for thread in threads:
        thread.join()


def case_fork_while_attaching(context, run):
    start_and_join([context.Process(target=fork_while_attaching, args=(run,))])


def print_and_log(run, name):
    print(name)
    log(run, name)


def hold(locks, held, done):
    with contextlib.ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        held.set()
        assert done.wait(WAIT_SECONDS)


def case_locks_held(context, run):
    """A worker is forked while another thread is where wandb holds its locks."""
    kinds = (type(threading.Lock()), type(threading.RLock()))
    start_and_join([context.Process(target=len, args=("",))])  # to import takes such a lock
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "wandb"]
    values = [value for module in modules for value in vars(module).values()]
    locks = [value for value in values if isinstance(value, kinds)]
    run.log({"before": 0})
    held, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold, args=(locks, held, done))
    thread.start()
    assert held.wait(WAIT_SECONDS)
    worker = context.Process(target=print_and_log, args=(run, "worker 0"))
    worker.start()
    done.set()
    thread.join()
    say(len(locks) > 0)
    join([worker])


def sockets():
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return {os.readlink(link) for link in links if os.path.exists(link) or os.path.islink(link)}


def unused(run, inherited):
    new = sorted(link for link in sockets() - inherited if link.startswith("socket:"))
    say(run.id == run.config.id, new, threading.active_count())


def case_unused(context, run):
    run.config.id = run.id
    # What a fork inherits does not count.
    inherited = sockets() if context.get_start_method() == "fork" else set()
    start_and_join([context.Process(target=unused, args=(run, inherited))])


def speaker(run, n):
    print(f"before {n}\n", end="", flush=True)
    run.log({"x": n})
    print(f"after {n}\n", end="", flush=True)
    sys.stderr.write(f"error {n}\n")
    sys.stderr.flush()


def case_console(context, run):
    start_and_join([context.Process(target=speaker, args=(run, n)) for n in range(2)])


def start_and_join(workers):
    for worker in workers:
        worker.start()
    join(workers)


def join(workers):
    deadline = time.monotonic() + WAIT_SECONDS
    for worker in workers:
        worker.join(max(0, deadline - time.monotonic()))
    said = where_they_hang([worker.pid for worker in workers if worker.exitcode is None])
    say([worker.exitcode for worker in workers])
    for worker in workers:
        worker.kill()
    if said:
        sys.exit(said)


# --- where one hangs ----------------------------------------------------------

_stacks = None  # a file: wandb may have replaced stderr


def tell_where_it_hangs():
    """Have this process and its forks write down in which calls they are, on SIGUSR1."""
    global _stacks
    if hasattr(signal, "SIGUSR1"):
        _stacks = open("stacks", "a+")  # noqa: SIM115
        faulthandler.register(signal.SIGUSR1, file=_stacks)


if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker, and no fork
    tell_where_it_hangs()


def where_they_hang(pids):
    """Return in which calls processes and this one are; nothing if there are none."""
    if not pids or _stacks is None:
        return None
    for pid in [*pids, os.getpid()]:
        os.kill(pid, signal.SIGUSR1)
        time.sleep(1)  # each writes at its own pace
    _stacks.seek(0)
    return f"workers hang, {list(map(status, pids))}; these, and their owner: {_stacks.read()}"


def status(pid):
    """Return what Linux tells of a process: its state, and what it waits for in the kernel."""
    try:
        with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/wchan") as wchan:
            return stat.read().rpartition(")")[2][:3] + wchan.read()
    except OSError as error:
        return str(error)


def main(cases):
    """Play one of the functions case_... that a script has."""
    tell_where_it_hangs()
    method, case = sys.argv[1:]
    context = multiprocessing.get_context(method)
    if method == "forkserver":  # else each worker would import it
        context.set_forkserver_preload(["wandb", "wandb_ddp_patch"])
    run = wandb.init(mode="offline", project="p")
    cases[f"case_{case}"](context, run)
    wandb.finish()


if __name__ == "__main__":
    main(globals())
