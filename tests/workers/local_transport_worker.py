"""A script for test_local_transport.py: what a worker does with a run whose calls are relayed.

Usage: local_transport_worker.py METHOD. Prints one line of JSON: what the worker saw.
"""

import json
import multiprocessing
import os
import pickle
import sys
import threading

import wandb
from limits import WAIT_SECONDS

import wandb_ddp_patch  # noqa: F401


def outcome(function, *args, **kwargs):
    """Return what a call returns, or what it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def work(run, results):
    seen = {}
    config = run.config
    run.log({"a": 1})
    seen["globals"] = [wandb.run is run, wandb.config is config, wandb.log == run.log]
    wandb.log({"a": 2}, step=10)

    wandb.config.update({"new": {"x": 1}})
    config["item"] = 5
    config.attribute = 3
    seen["config"] = outcome(config.update, {"lr": 7})
    config.update({"lr": 8}, allow_val_change=True)

    run.summary["best"] = 1
    run.summary.update({"more": {"x": 2}})
    seen["summary"] = [run.summary["best"], run.summary["more"]["x"], run.summary["a"]]

    define_metric = getattr(run, "define_metric", None) or run._define_metric
    define_metric("loss", summary="min")
    os.makedirs("folder", exist_ok=True)
    with open("folder/saved.txt", "w") as file:
        file.write("saved")
    os.chdir("folder")
    run.save("saved.txt")
    wandb.save("../folder/saved.txt", base_path="..")
    os.chdir("..")
    run.alert("title", "text")

    run.notes = "some notes"
    run.name = "new name"
    seen["properties"] = [run.notes, run.name, run.dir, run.step, run.resumed]
    for name in ("log_artifact", "watch"):
        seen[name] = outcome(getattr(run, name), None)
    seen["settings"] = outcome(getattr, run, "settings")
    seen["lock"] = outcome(run.log, {"lock": threading.Lock()})
    seen["no dict"] = outcome(run.log, 5)

    run.log({"html": wandb.Html("<b>bold</b>")})
    for n in range(20):
        run.log({"order": n})

    threads = [threading.Thread(target=log_many, args=(run, f"thread {n}")) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    run.finish()
    seen["finished"] = outcome(run.log, {"x": 1})
    seen["current"] = wandb.run is None
    results.put(seen)


def log_many(run, name):
    for n in range(50):
        run.log({name: n})


def main():
    context = multiprocessing.get_context(sys.argv[1])
    run = wandb.init(mode="offline", project="p", config={"lr": 0.1})
    results = context.Queue()
    pickled = pickle.dumps(run)
    worker = context.Process(target=work, args=(run, results))
    worker.start()
    seen = results.get(timeout=WAIT_SECONDS)
    worker.join(WAIT_SECONDS)
    seen["exit code"] = worker.exitcode
    seen["secret"] = os.environ["WANDB_API_KEY"] in str(pickled)
    seen["owner's config"] = {k: v for k, v in dict(run.config).items() if k[0] != "_"}
    with context.Pool(1) as pool:  # one worker, three tasks that all end with finish()
        seen["pool"] = pool.map(task, [(run, n) for n in range(3)], chunksize=1)
    run.log({"owner": 1})
    run.finish()
    seen["late"] = outcome(pickle.loads(pickled).finish)
    with open("seen.json", "w") as file:
        json.dump(seen, file)


def task(arguments):
    run, n = arguments
    run.log({"task": n})
    run.finish()
    return wandb.run is None


if __name__ == "__main__":
    main()
