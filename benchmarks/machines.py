"""One run on several machines: what a row costs, how many there can be, what the owner feels.

Workers are on this machine and use the network of it, as if they were elsewhere; the line's
round trip is a relay's that holds back what it carries. Peers in the same run: W&B's service,
as a worker on the owner's machine uses it; W&B's shared mode, with a stand-in for its server
on this machine (tests/backend); and torch's gather_object to rank 0.
"""

import json
import multiprocessing
import os
import pickle
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import harness
import wandb

import wandb_ddp_patch
from wandb_ddp_patch import runfile

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))
import backend

ROUND_TRIPS = 0.0, 0.001, 0.01
WORKERS = 1, 4, 16, 64
ROWS = 2000
# Of a turn, of all workers together.
ALL_ROWS = 16_000


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


def relay(port, round_trip, pipe):
    pipe.send(Relay(port, round_trip).port)
    threading.Event().wait()


def handed(run, port=None):
    """Pickle a run as one for another machine: this one is called by another name."""
    from wandb_ddp_patch.borrowed import payload

    content = payload.of(run)
    content["share"] = {**content["share"], "machine": "- - - elsewhere"}
    content["share"]["port"] = port or content["share"]["port"]
    return pickle.dumps((content, None))


def work(content, key, rows, start, results, local=None):
    """Log rows; send the seconds until logged, and until they are in the run."""
    from wandb_ddp_patch import worker

    run = local or worker.load_run(pickle.loads(content)[0])
    run.log({key: -1})
    results.put(None)
    start.wait()
    begun = time.perf_counter()
    for n in range(rows):
        run.log({key: n})
    logged = time.perf_counter() - begun
    run.finish()
    results.put((logged, time.perf_counter() - begun))


def measure(run, content, key, local=False):
    """Have a worker log; return its seconds until logged, and until all is in the run."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    args = content, key, ROWS, start, results, run if local else None
    process = context.Process(target=work, args=args)
    process.start()
    results.get()
    start.set()
    took = results.get()
    process.join()
    return took


def alone(run, rows):
    """Have the owner log; return its seconds until the service has all."""
    begun = time.perf_counter()
    for n in range(rows):
        run.log({"alone": n})
    run.summary.get("alone")
    return time.perf_counter() - begun


def work_in_turns(content, key, rows, start, results):
    from wandb_ddp_patch import worker
    from wandb_ddp_patch.borrowed import link

    run = worker.load_run(pickle.loads(content)[0])
    run.log({key: -1})
    results.put(None)
    while start.get():
        for n in range(rows):
            run.log({key: n})
        link.of(run).way.flush(run)  # as at a worker's end: until the owner has made all
        results.put(None)
    run.finish()


def rates(run, content, workers, rounds):
    """Have the owner log so many rows, and workers as many in all, in turns.

    Returns:
        Rows a second of both, a pair for each round.
    """
    context = multiprocessing.get_context("spawn")
    results, found = context.Queue(), []
    rows = ALL_ROWS // workers
    starts = [context.SimpleQueue() for _ in range(workers)]
    processes = [
        context.Process(
            target=work_in_turns, args=(content, f"of {workers}, {n}", rows, start, results)
        )
        for n, start in enumerate(starts)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        results.get()
    for _ in range(rounds):
        own = alone(run, rows * workers)
        begun = time.perf_counter()
        for start in starts:
            start.put(True)
        for _ in processes:
            results.get()
        run.summary.get("alone")
        whole = time.perf_counter() - begun
        found.append((rows * workers / whole, rows * workers / own))
    for start, process in zip(starts, processes):
        start.put(False)
        process.join()
    return found


def latency(run, port, rounds):
    context = multiprocessing.get_context("spawn")
    arms = {"local way": []}
    for round_trip in ROUND_TRIPS:
        arms[f"{1000 * round_trip:g} ms"] = []
    for number in range(rounds):
        arms["local way"].append(measure(run, b"", f"local {number}", local=True))
        for round_trip in ROUND_TRIPS:
            pipe, end = context.Pipe()
            between = context.Process(target=relay, args=(port, round_trip, end), daemon=True)
            between.start()
            content = handed(run, pipe.recv())
            took = measure(run, content, f"remote {round_trip} {number}")
            arms[f"{1000 * round_trip:g} ms"].append(took)
            between.terminate()
    return arms


def step(seconds=2.0):
    """Count what the owner does in some time, in steps of about a millisecond: no Python."""
    import hashlib

    data, steps, begun = bytes(400_000), 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        hashlib.sha256(data).digest()
        steps += 1
    return steps / (time.perf_counter() - begun)


def paced(content, rate, seconds, results, start):
    from wandb_ddp_patch import worker

    run = worker.load_run(pickle.loads(content)[0])
    run.log({"paced": -1})
    results.put(None)
    start.wait()
    begun = time.perf_counter()
    for n in range(int(rate * seconds)):
        run.log({"paced": n})
        time.sleep(max(0.0, begun + (n + 1) / rate - time.perf_counter()))
    run.finish()


def slowed(run, rate=1000, rounds=3):
    """Compare the owner's steps while a worker logs, and while a thread of its own does."""
    context = multiprocessing.get_context("spawn")
    found = {"nobody logs": [], "a thread of the owner's logs": [], "a remote worker logs": []}
    for _ in range(rounds):
        found["nobody logs"].append(step())
        over = threading.Event()

        def log(over=over):
            begun, n = time.perf_counter(), 0
            while not over.is_set():
                run.log({"thread": n})
                n += 1
                time.sleep(max(0.0, begun + n / rate - time.perf_counter()))

        thread = threading.Thread(target=log)
        thread.start()
        found["a thread of the owner's logs"].append(step())
        over.set()
        thread.join()
        start, results = context.Event(), context.Queue()
        process = context.Process(target=paced, args=(handed(run), rate, 4.0, results, start))
        process.start()
        results.get()
        start.set()
        time.sleep(0.3)
        found["a remote worker logs"].append(step())
        process.join()
    return found


def connections(run, content, count=1000, rows=10):
    """Connect so many workers that log a few rows; return the owner's growth in bytes."""
    script = (
        "import sys, pickle; from wandb_ddp_patch.borrowed.remote import handshake, messages\n"
        "from wandb_ddp_patch.borrowed.remote import packing; import os\n"
        "from wandb_ddp_patch.borrowed.remote.frames import Item\n"
        "from wandb_ddp_patch.borrowed.remote.wire import Wire\n"
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))\n"
        "content = pickle.load(sys.stdin.buffer)[0]; share = content['share']; wires = []\n"
        "key = bytes.fromhex(content['key'])\n"
        f"for n in range({count}):\n"
        "    knock = handshake.Knock(key, os.urandom(16), share['token'])\n"
        "    wires.append(Wire((share['host'], share['port']), knock, 0))\n"
        "for n, wire in enumerate(wires):\n"
        f"    rows = [({{'many': {rows} * n + m}},) for m in range({rows})]\n"
        "    items = [Item(m, messages.ROW, packing.pack_plain('log', row, {}))\n"
        "             for m, row in enumerate(rows, 1)]\n"
        "    wire.send(0, [*items, Item(len(items) + 1, messages.BYE, b'')], True)\n"
        "for wire in wires:\n"
        f"    while max(f.made for f in wire.receive()) < {rows}: pass\n"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    subprocess.run([sys.executable, "-c", script], input=content, check=True)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def gather(rank, port, rows, results):
    import torch.distributed as dist

    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    into = [None, None] if rank == 0 else None
    dist.barrier()
    begun = time.perf_counter()
    for n in range(rows):
        dist.gather_object({"n": n}, into, dst=0)
    if rank:
        results.put(time.perf_counter() - begun)
    dist.barrier()


def gathered(rows=ROWS):
    """Time torch's gather_object of a row at each step; nothing is logged."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = context.Queue()
    ranks = [context.Process(target=gather, args=(n, port, rows, results)) for n in range(2)]
    for rank in ranks:
        rank.start()
    took = results.get()
    for rank in ranks:
        rank.join()
    return took


def share_mode(number, rows, environment, start, results):
    """Be one of the processes that write one run in W&B's shared mode."""
    os.environ.update(environment)
    settings = wandb.Settings(x_primary=number == 0, x_label=str(number))
    if number:
        settings.x_update_finish_state = False
    run = wandb.init(project="benchmark", id="shared", mode="shared", settings=settings)
    run.log({f"shared {number}": -1})
    results.put(None)
    start.wait()
    begun = time.perf_counter()
    for n in range(rows):
        run.log({f"shared {number}": n})
    logged = time.perf_counter() - begun
    run.finish()
    results.put(logged)


def shared_mode(rows, workers=4):
    """Time W&B's own way for several machines, until the server has what it gets."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    with backend.Backend() as server, tempfile.TemporaryDirectory() as folder:
        environment = {**server.environment, "WANDB_DIR": folder}
        processes = [
            context.Process(target=share_mode, args=(n, rows, environment, start, results))
            for n in range(workers)
        ]
        for process in processes:
            process.start()
        for _ in processes:
            results.get()
        begun = time.perf_counter()
        start.set()
        logged = [results.get() for _ in processes]
        whole = time.perf_counter() - begun
        for process in processes:
            process.join()
        (run,) = server.runs()
        came = {
            (key, value)
            for line in run.came
            for key, value in json.loads(line).items()
            if key.startswith("shared") and value >= 0
        }
    return {
        "workers": workers,
        "rows_per_s": workers * rows / whole,
        "row_s": statistics.median(logged) / rows,
        "rows": workers * rows,
        "arrived": len(came),
    }


def main():
    args = harness.parser(__doc__, "3").parse_args()
    rounds = args.rounds or (1 if args.quick else 3)
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    shared = shared_mode(500 if args.quick else ROWS)  # first: each process has its own service
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
    run = wandb.init(project="benchmark")
    address = wandb_ddp_patch.share(run, host="127.0.0.1")
    port = int(address.rpartition(":")[2])
    growth = connections(run, handed(run))
    arms = latency(run, port, rounds)
    several = 1 if args.quick else 9
    counts = WORKERS[: 2 if args.quick else 4]
    by_count = {workers: rates(run, handed(run), workers, several) for workers in counts}
    steps = slowed(run, rounds=several)
    took = gathered()
    run.finish()
    report(arms, by_count, growth, steps, took, shared, folder, args.quick)


def paired(what, ratios, at_most, *words):
    interval = harness.interval(ratios)
    return harness.goal(what, statistics.median(ratios), at_most, *words, interval=interval)


def report(arms, by_count, growth, steps, took, shared, folder, quick):
    (file,) = runfile.find(folder)
    many = sum("many" in row for row in runfile.history(file))
    local = statistics.median(logged for logged, _ in arms["local way"])
    goals, cases = [], {"latency": {}, "workers": {}, "steps": steps}
    for name, pairs in arms.items():
        logged, arrived = (statistics.median(p[n] for p in pairs) for n in range(2))
        cases["latency"][name] = {"row_s": logged / ROWS, "arrived_row_s": arrived / ROWS}
        if name != "local way":
            what = f"a remote worker logs a row, {name} round trip"
            times = harness.seconds(logged / ROWS), harness.seconds(local / ROWS)
            goals.append(harness.goal(what, logged / local, 1.0, times[0], f"{times[1]}, local"))
    for workers, pairs in by_count.items():
        rate, own = (statistics.median(pair[n] for pair in pairs) for n in range(2))
        cases["workers"][workers] = {"rows_per_s": rate, "owner_alone": own}
        what = f"rows a second: the owner to {workers} remote"
        rows = f"{rate:,.0f} rows/s", f"{own:,.0f} rows/s, the owner alone"
        goals.append(paired(what, [own / rate for rate, own in pairs], 1.25, *rows))
    what = "the owner's step at 1,000 remote rows/s"
    pairs = zip(steps["a thread of the owner's logs"], steps["a remote worker logs"])
    goals.append(paired(what, [own / remote for own, remote in pairs], 1.02))
    goals.append(harness.goal("rows lost of 1,000 connections", 10_000 - many, 0))
    goals.append(harness.goal("the owner's growth by them, MB", growth / 1e6, 200))
    cases["gather_object_row_s"] = took / ROWS
    cases["shared mode"] = shared
    for goal in goals:
        print(goal["what"], goal["value"], goal["state"], goal["ours"], goal["baseline"])
    print(cases)
    harness.save("machines", {"cases": cases, "goals": goals}, quick)


if __name__ == "__main__":
    main()
