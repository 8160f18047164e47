"""What else brings rows of several machines into one place: machines.py times them beside ours.

W&B's shared mode, with a stand-in for its server on this machine (tests/backend), and torch's
gather_object to rank 0.
"""

import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time

import wandb

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))
import backend


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


def gathered(rows):
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
