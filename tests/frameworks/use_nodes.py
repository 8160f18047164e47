"""A script: a run that Ray's or Dask's workers on another machine log to.

Usage: use_nodes.py ray|dask ADDRESS. Nodes and workers are there already; with Ray, those
of the other machine have a resource named "other".
"""

import os
import sys

import wandb

import wandb_ddp_patch

WORKERS, ROWS = 4, 50


def log(run, worker):
    for n in range(ROWS):
        run.log({f"worker {worker}": n, "lr used": run.config["lr"]})
    return os.readlink("/proc/self/ns/net")


def with_ray(address, run):
    import ray

    ray.init(address=address, log_to_driver=False)

    @ray.remote(resources={"other": 1})
    class Actor:
        def __init__(self, run):
            self.run = run

        def log(self):
            return log(self.run, "of an actor")

    task = ray.remote(num_cpus=0, resources={"other": 1})(log)
    places = ray.get([task.remote(run, n) for n in range(WORKERS)])
    actor = Actor.options(num_cpus=0).remote(run)
    return [*places, ray.get(actor.log.remote())]


def with_dask(address, run):
    from distributed import Client

    with Client(address) as client:
        client.wait_for_workers(2)
        futures = client.map(lambda n, run: log(run, n), range(WORKERS), run=run, pure=False)
        return client.gather(futures)


def main(framework, address):
    run = wandb.init(mode="offline", project="p", config={"lr": 0.1})
    wandb_ddp_patch.share(run)
    places = {"ray": with_ray, "dask": with_dask}[framework](address, run)
    assert set(places) != {os.readlink("/proc/self/ns/net")}, "nothing ran on the other machine"
    run.log({"owner": 1})
    run.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
