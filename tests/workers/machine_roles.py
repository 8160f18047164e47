"""A script for test_machines.py: an owner, and workers on other machines.

Usage: machine_roles.py ROLE [ARGUMENT...]. What is handed over lies in run.pkl; what is
seen is written to a file of JSON.
"""

import json
import multiprocessing
import os
import pickle
import sys
import time

import wandb
from limits import WAIT_SECONDS

import wandb_ddp_patch


def outcome(function, *args, **kwargs):
    """Return what a call returns, or what it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def write(name, content):
    with open(name + ".part", "wb") as file:
        file.write(content)
    os.rename(name + ".part", name)


def wait_for(*names):
    deadline = time.monotonic() + WAIT_SECONDS
    while not all(map(os.path.exists, names)):
        assert time.monotonic() < deadline, f"{names} did not come"
        time.sleep(0.05)


def load(name="run.pkl"):
    wait_for(name)
    with open(name, "rb") as file:
        return pickle.load(file)


def begin(host=None, port=0, name="run.pkl"):
    run = wandb.init(mode="offline", project="p", config={"lr": 0.1})
    wandb_ddp_patch.share(run, host, int(port))
    write(name, pickle.dumps({"run": run, "log": run.log, "summary": run.summary}))
    return run


def owner(*ended, host=None, port=0):
    """Has a run until all that is named has come."""
    run = begin(host, port)
    wait_for(*ended)
    seen = {key: value for key, value in dict(run.config).items() if key[0] != "_"}
    write("owner.json", json.dumps([seen, run.name]).encode())
    run.finish()


def owner_at(host, port, *ended):
    owner(*ended, host=host, port=port)


def owner_that_finishes(*begun):
    """Finishes while its workers log."""
    run = begin()
    wait_for(*begun)
    rows = wandb.run.summary.get("n")
    run.finish()
    write("finished", json.dumps(rows).encode())


def two_owners(*ended):
    """Has two runs at once, in two processes; the second is a fork's own."""
    child = os.fork()
    run = begin(name="two.pkl" if child else "run.pkl")
    wait_for(*ended)
    run.finish()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def log(name, rows, pause="0", file="run.pkl"):
    """Logs rows, and writes down what that has raised."""
    run = load(file)["run"]
    seen = []
    for n in range(int(rows)):
        try:
            run.log({name: n})
        except Exception as error:
            seen.append(f"{type(error).__name__}: {error}")
            if len(seen) == 2:
                break
        if n == 5:
            write(f"{name}.begun", b"")
        time.sleep(float(pause))
    begun = time.monotonic()
    outcome(run.finish)
    seen.append(time.monotonic() - begun)
    write(name, json.dumps(seen).encode())


def rows(run, key, count):
    for n in range(count):
        run.log({key: n})


def forks(name):
    """A worker on another machine that has workers of its own."""
    run = load()["run"]
    rows(run, "before", 10)
    child = os.fork()
    if not child:
        rows(run, "forked", 100)
        run.finish()
        os._exit(0)
    rows(run, "meanwhile", 100)
    os.waitpid(child, 0)
    spawned = multiprocessing.get_context("spawn").Process(target=rows, args=(run, "spawned", 100))
    spawned.start()
    spawned.join()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(task, [(run, n) for n in range(20)], chunksize=1)
    rows(run, "after", 10)
    run.finish()
    write(name, b"[]")


def task(arguments):
    run, n = arguments
    run.log({"task": n})


def everything(name):
    """Does with a run what can be done with it on another machine."""
    handed = load()
    run, seen = handed["run"], {}
    seen["metadata"] = [run.project, run.config["lr"], wandb.run is None]
    handed["log"]({"a": 1})
    seen["globals"] = [wandb.run is run, wandb.config is run.config, wandb.log == run.log]
    for n in range(500):
        wandb.log({"n": n})
    wandb.config.update({"new": {"x": 1}})
    run.config["item"] = 5
    seen["config"] = outcome(run.config.update, {"lr": 7})
    run.config.update({"lr": 8}, allow_val_change=True)
    handed["summary"]["best"] = 1
    seen["summary"] = [handed["summary"]["best"], run.summary["n"]]
    define_metric = getattr(run, "define_metric", None) or run._define_metric
    define_metric("loss", summary="min")
    run.log({"html": wandb.Html("<b>bold</b>"), "one": wandb.Html("one")})
    run.log({"two": wandb.Html("two")})
    # Elsewhere, to log a table, or a list of media, makes the owner wait for the network, also
    # offline, and with wandb alone.
    if wandb.__version__ > "0.13" and wandb.__version__[:4] != "0.18":
        run.log({"table": wandb.Table(columns=["a"], data=[[1]])})
    os.makedirs("folder", exist_ok=True)
    for file, size in (("folder/saved.txt", 10), ("folder/large.bin", 3_000_000)):
        with open(file, "wb") as into:
            into.write(b"x" * size)
    run.save("folder/*")
    run.name = "new name"
    seen["properties"] = [run.name, run.step]
    artifact = wandb.Artifact("stuff", "dataset")
    artifact.add_file("folder/large.bin")
    with artifact.new_file("made.txt") as made:
        made.write("made")
    seen["artifact"] = str(outcome(lambda: run.log_artifact(artifact) and None))
    seen["no dict"] = outcome(run.log, 5)
    seen["large"] = outcome(run.log, {"large": list(range(300_000))})
    seen["finish"] = outcome(run.finish)
    seen["finished"] = outcome(run.log, {"x": 1})
    seen["current"] = wandb.run is None
    load()["run"].log({"again": 1})  # a pool's next task
    write(name, json.dumps(seen).encode())


def unchanged():
    """An owner that knows nothing of machines: WANDB_DDP_PATCH_SHARE does it."""
    run = wandb.init(mode="offline", project="p")
    write("run.pkl", pickle.dumps({"run": run}))
    wait_for("one")
    run.finish()


def rank():
    """A rank of torch.distributed; the first has the run."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    number = dist.get_rank()
    seen = [outcome(wandb_ddp_patch.broadcast)]  # where there is no run
    own = wandb.init(mode="offline", project="p") if number == 0 else None
    run = wandb_ddp_patch.broadcast()
    seen += [run is own, wandb.run is run, "token" in str(pickle.dumps(run))]
    for n in range(50):
        wandb.log({f"rank {number}": n})
    if number:
        run.finish()
    dist.barrier()
    if own:
        own.finish()
    write(f"rank{number}", json.dumps(seen).encode())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
