"""How long workers take to start: torch's ways, spawn(), and the pools of others.

Each arm has a process of its own, which has imported torch and wandb and has an
offline run, as a training script has; "cold" has a new one each time. Each starts so
many workers and waits until all have ended; new workers each time, also of the pools.
Workers do nothing, but their function names torch and wandb, so that every worker has
them, loky's too, which do not import the script. What starts workers by spawn() is
launch_ours.py: a script that names it gets ready for it. The arms take turns. A ratio is the
median of the ratios of the rounds.

Of 8 and 16 workers, and of slow arms where no goal is set, fewer rounds are taken, so
that all is done in minutes: the table and the JSON say how many.
"""

import argparse
import concurrent.futures
import contextlib
import multiprocessing
import sys
import time
from pathlib import Path

import harness
import torch
import torch.multiprocessing as mp
import wandb

SPAWN, FORK = "torch.multiprocessing.spawn", "start_processes, fork"
COLD, WARM = "spawn(), cold", "spawn(), warm"


def nothing(rank):
    return torch.nn, wandb.run  # not looked at: see above


def executor(pool, n):
    with pool:
        for done in [pool.submit(nothing, rank) for rank in range(n)]:
            done.exception()  # waits


def pool_of_futures(n):
    # A pool of spawned workers starts one for each task that finds none idle.
    executor(
        concurrent.futures.ProcessPoolExecutor(n, multiprocessing.get_context("spawn")),
        n,
    )


def pool_of_loky(n):
    # Not get_reusable_executor(), which starts no workers from its second use on.
    import loky

    executor(loky.ProcessPoolExecutor(n), n)


THEIRS = {
    SPAWN: lambda n: mp.spawn(nothing, nprocs=n),
    "start_processes, forkserver": lambda n: mp.start_processes(
        nothing, nprocs=n, start_method="forkserver"
    ),
    "ProcessPoolExecutor": pool_of_futures,
    "loky": pool_of_loky,
    FORK: lambda n: mp.start_processes(nothing, nprocs=n, start_method="fork"),
}
ARMS = [*THEIRS, COLD, WARM]
# Rounds: of our warm start and fork; torch's spawn; our cold start; the other peers,
# which are left out of 16 workers: a round would take a minute.
ROUNDS = {
    1: (15, 3, 3, 3),
    2: (15, 3, 3, 3),
    4: (15, 7, 7, 3),
    8: (15, 3, 3, 1),
    16: (15, 1, 1, 0),
}


def serve(start, name):
    """Be an arm: start as many workers as a line says, and answer in seconds."""
    with harness.offline_run(lr=0.1):
        if name != COLD:  # what only a first start does, and is not cold's to show
            start(1)
        print("ready", flush=True)
        for line in sys.stdin:
            begun = time.perf_counter()
            start(int(line))
            print(time.perf_counter() - begun, flush=True)


class Arm(harness.Server):
    """A process that serves an arm."""

    def __init__(self, name):
        script = Path(__file__)
        if name not in THEIRS:
            script = script.with_name("launch_ours.py")
        super().__init__(harness.PYTHON, str(script), "--serve", name)

    def __call__(self, n):
        return self.ask(n)


def cold(n):
    with Arm(COLD) as arm:
        return arm(n)


def main():
    parser = harness.parser(__doc__, "7 and more of 4 workers, fewer of others")
    parser.add_argument("--workers", type=int, nargs="+")
    parser.add_argument("--serve", choices=THEIRS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(THEIRS[args.serve], args.serve)
        return
    workers = args.workers or ([1, 4] if args.quick else list(ROUNDS))
    result = {}
    with contextlib.ExitStack() as stack:
        servers = {name: Arm(name) for name in ARMS if name != COLD}
        for server in servers.values():  # they have begun to get ready, all at once
            stack.enter_context(server)
        servers[COLD] = cold
        for n in workers:
            result[n] = measure(servers, n, args)
    report(result, args.quick)


def measure(servers, n, args):
    quick = 3, 1, 1, int(n == 1)
    fast, spawn, new, others = quick if args.quick else ROUNDS.get(n, ROUNDS[8])
    rounds = {**dict.fromkeys(ARMS, others), WARM: fast, FORK: fast, SPAWN: spawn, COLD: new}
    if args.rounds:
        rounds = args.rounds
    arms = {
        name: (lambda server=servers[name]: server(n))
        for name in ARMS
        if args.rounds or rounds[name]
    }
    times = harness.interleave(arms, rounds, 0, f"{n} workers")
    return harness.summary({name: times[name] for name in arms}, SPAWN, FORK)


def report(result, quick):
    slopes = {}
    for name in ARMS:
        medians = {n: arms[name]["median_s"] for n, arms in result.items() if name in arms}
        if len(medians) > 1:
            slopes[name] = harness.slope(list(medians), list(medians.values()))
    for n, arms in result.items():
        rows = [
            (
                name,
                harness.seconds(arm["median_s"]),
                f"{arm['of ' + SPAWN]:.4f}",
                f"{arm['of ' + FORK]:.2f}",
                arm["rounds"],
            )
            for name, arm in arms.items()
        ]
        print(harness.table((f"{n} workers", "median", "of spawn", "of fork", "rounds"), rows))
    if slopes:
        rows = [(name, harness.seconds(max(value, 0))) for name, value in slopes.items()]
        print(harness.table(("slope", "per worker"), rows))
    harness.save(
        "launch",
        {
            "baselines": [SPAWN, FORK],
            "workers": {str(n): arms for n, arms in result.items()},
            "slope_s_per_worker": slopes,
            "goals": list(goals(result, slopes)),
        },
        quick,
    )


def goals(result, slopes):
    many = [n for n in result if n >= 4]
    for arm, baseline, at_most in (
        (WARM, SPAWN, 1 / 50),
        (WARM, FORK, 2),
        (COLD, SPAWN, 0.15),
    ):
        if many:
            # The worst of all numbers of workers.
            worst = max(many, key=lambda n: result[n][arm]["of " + baseline])
            yield harness.goal(
                f"starting 4 or more workers, {arm} (worst case: {worst})",
                at_most=at_most,
                **harness.of(result[worst], arm, baseline),
            )
    if slopes:
        yield harness.goal(
            f"starting one more worker, {WARM}",
            slopes[WARM] / slopes[SPAWN],
            1 / 50,
            harness.seconds(max(slopes[WARM], 0)),
            f"{harness.seconds(slopes[SPAWN])}, {SPAWN}",
        )


if __name__ == "__main__":
    main()
