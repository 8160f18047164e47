"""The processes that machines.py talks to, with any build of the package: PYTHONPATH says which.

    owner           has an offline run, which it shares
    workers         has its run from an owner, in as many processes as it is told to
    relay PORT MS   carries connections to a port, each byte half a round trip later

Each says "ready" and answers each line of input with JSON. Only what builds before the tunnel
have as well is used here.
"""

import base64
import collections
import hashlib
import json
import multiprocessing
import os
import pickle
import resource
import socket
import sys
import threading
import time


class Lines:
    """Lines of input, and answers to them, whatever else is printed.

    Args:
        ready: What is said first.
    """

    def __init__(self, ready="ready"):
        self.output = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        print(ready, file=self.output, flush=True)

    def __iter__(self):
        for line in sys.stdin:
            yield line.split()

    def answer(self, value):
        print(json.dumps(value), file=self.output, flush=True)


# --- the owner ----------------------------------------------------------------


def own():
    import wandb

    import wandb_ddp_patch

    run = wandb.init(project="benchmark")
    wandb_ddp_patch.share(run, host="127.0.0.1")
    answers = {
        "payload": lambda where, port: handed(payload_of(run), where, int(port)),
        "used": used,
        "step": lambda seconds: step(float(seconds)),
        "sync": lambda: run.summary.get("asked"),
        "port": lambda: payload_of(run)["share"]["port"],
        "package": lambda: os.path.dirname(os.path.dirname(wandb_ddp_patch.__file__)),
        "finish": lambda: finish(run),
    }
    lines = Lines()
    for name, *words in lines:
        lines.answer(answers[name](*words))


# The earlier design has other names: see machines.py.


def payload_of(run):
    try:
        from wandb_ddp_patch.handover import payload
    except ImportError:
        from wandb_ddp_patch.borrowed import payload

        return payload.of(run)
    return payload.dump(run)


def transport_of(run):
    try:
        from wandb_ddp_patch.runs import state
    except ImportError:
        from wandb_ddp_patch.borrowed import link

        return link.of(run).way
    return state.get_state(run).transport


def handed(content, where, port):
    """Pack a run for a worker "here", or "elsewhere": there, this machine has another name."""
    if where == "elsewhere":
        share = content["share"]
        name = "machine" if "machine" in share else "host_fingerprint"  # the earlier design's
        content["share"] = {**share, name: "- - - elsewhere", "port": port or share["port"]}
    return base64.b64encode(pickle.dumps(content)).decode()


def used():
    """Give the processor time of this process, its memory, and the most that it has had."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    resident = pages * resource.getpagesize()
    return [usage.ru_utime + usage.ru_stime, resident, 1024 * usage.ru_maxrss]


def step(seconds):
    """Give how many steps of about a millisecond are made in a second: no Python."""
    data, steps, begun = bytes(400_000), 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        hashlib.sha256(data).digest()
        steps += 1
    return steps / (time.perf_counter() - begun)


def finish(run):
    """Finish the run, and W&B's service; count the rows that have each key."""
    import wandb

    from wandb_ddp_patch import runfile

    run.finish()
    wandb.teardown()  # until then, it may not have written all
    (file,) = runfile.find(".")
    rows = runfile.history(file)
    return dict(collections.Counter(key for row in rows for key in row if key[0] != "_"))


# --- workers --------------------------------------------------------------------


def have_workers():
    """Fork workers, when told to, from this process, which has all modules already."""
    from wandb.sdk import wandb_run  # noqa: F401

    from wandb_ddp_patch import worker  # noqa: F401

    context, workers = multiprocessing.get_context("fork"), []
    lines = Lines()
    for name, *words in lines:
        if name == "connect":
            for _ in range(int(words[0])):
                pipe, end = context.Pipe()
                others = [other for _, other in workers]
                process = context.Process(target=work, args=(end, [pipe, *others], *words[1:]))
                process.start()
                end.close()
                workers.append((process, pipe))
        elif name == "kill":
            for process, _ in workers:
                process.kill()
                process.join()
            workers.clear()
        else:
            for _, pipe in workers:
                pipe.send((name, words))
        lines.answer([pipe.recv() for _, pipe in workers])
        if name == "end":
            for process, _ in workers:
                process.join()
            workers.clear()


def work(pipe, inherited, key, content):
    from wandb_ddp_patch import worker

    for other in inherited:
        other.close()
    begun = time.perf_counter()
    run = worker.load_run(pickle.loads(base64.b64decode(content)))
    run.log({key: -1})
    logged = time.perf_counter() - begun

    def flush():
        transport_of(run).flush(run)  # as at a worker's end: until all is in the run

    flush()
    pipe.send((logged, time.perf_counter() - begun))
    answers = {"log": log, "flood": flood, "ask": ask}
    while True:
        try:
            name, words = pipe.recv()
        except EOFError:
            return
        if name == "end":
            break
        pipe.send(answers[name](run, key, flush, *map(float, words)))
    run.finish()
    pipe.send(None)


def log(run, key, flush, rows, rate=0.0):
    """Log rows, so many a second if a rate is given.

    Returns:
        The seconds until logged, and until they are in the run.
    """
    begun = time.perf_counter()
    for n in range(int(rows)):
        run.log({key: n})
        if rate:
            time.sleep(max(0.0, begun + (n + 1) / rate - time.perf_counter()))
    logged = time.perf_counter() - begun
    flush()
    return logged, time.perf_counter() - begun


def flood(run, key, flush, seconds):
    """Log for so long, leaving the processor to others first: these have one elsewhere.

    Returns:
        The number of rows.
    """
    os.nice(19)
    begun, n = time.perf_counter(), 0
    while time.perf_counter() < begun + seconds:
        run.log({key: n})
        n += 1
    return n


def ask(run, key, flush, seconds, limit):
    """Ask again and again for so long.

    Args:
        limit: Seconds in which the last answer has to come.

    Returns:
        The longest time until an answer, how many came, and whether the last did.
    """
    took, begun = [], [time.perf_counter()]
    end = begun[0] + seconds

    def keep_asking():
        while begun[-1] < end:
            run.summary.get(key)
            begun.append(time.perf_counter())
            took.append(begun[-1] - begun[-2])

    asking = threading.Thread(target=keep_asking, daemon=True)
    asking.start()
    asking.join(limit)
    waiting = [time.perf_counter() - begun[-1]] if asking.is_alive() else []
    return max(took + waiting), len(took), not waiting


# --- the line -------------------------------------------------------------------


class Relay:
    """Carries connections to the owner, each byte half a round trip later."""

    def __init__(self, port, round_trip):
        self.port_of_owner, self.delay = port, round_trip / 2
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near = self.listener.accept()[0]
            far = socket.create_connection(("127.0.0.1", self.port_of_owner))
            for one, two in ((near, far), (far, near)):
                threading.Thread(target=self.carry, args=(one, two), daemon=True).start()

    def carry(self, one, two):
        two.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := one.recv(1 << 18):
                time.sleep(self.delay)
                two.sendall(data)
            two.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def relay(port, milliseconds):
    made = Relay(int(port), float(milliseconds) / 1000)
    lines = Lines()
    for _ in lines:
        lines.answer(made.port)


if __name__ == "__main__":
    {"owner": own, "workers": have_workers, "local_address": relay}[sys.argv[1]](*sys.argv[2:])
