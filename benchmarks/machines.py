"""One run on several machines: what the owner, its workers and a row pay for that.

Workers are on this machine and use the network of it, as if they were elsewhere; the line's
round trip is a relay's that holds back what it carries. Beside this build, in turns, an earlier
one is measured, in which the owner made the calls of workers elsewhere: git checks it out.
The processes are in machine_process.py and machine_connections.py, peers in machine_peers.py.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time

import harness
import machine_goals
import machine_peers
from machine_builds import HERE, TREE, Build, checkout
from machine_goals import LOG_ROWS, NEW, OLD, ROUND_TRIPS_MS

# The last commit before W&B's own bytes went through a tunnel.
BEFORE = "1dce36a"
RATE = 1000
# The whole benchmark's sizes, and those of --quick.
FULL = {
    "rounds": 5,
    "rows": 16_000,
    "paced rows": 3000,
    "step rounds": 18,
    "step seconds": 0.8,
    "flood seconds": 8.0,
    "flooding": 64,
    "longest wait": 45.0,
    "connections": 2000,
    "peer rows": 2000,
}
QUICK = {
    "rounds": 1,
    "rows": 1000,
    "paced rows": 500,
    "step rounds": 1,
    "step seconds": 0.5,
    "flood seconds": 1.0,
    "flooding": 4,
    "longest wait": 5.0,
    "connections": 50,
    "peer rows": 100,
}
ROWS_EACH = 10


# --- what is measured ---------------------------------------------------------


def processor_time(builds, sizes):
    """Measure the processor time of the owner's process for a remote row.

    Returns:
        Seconds a row of each round, by the load's and the build's name; and, by the build's
        name, how many rows were lost.
    """
    loads = {
        "1 worker at full speed": (1, sizes["rows"], 0),
        "4 workers at full speed": (4, sizes["rows"] // 4, 0),
        "1 worker, 1,000 rows/s": (1, sizes["paced rows"], RATE),
    }
    with contextlib.ExitStack() as stack:
        owners = {name: Build(stack, tree) for name, tree in builds.items()}
        crowds = {
            (load, name): build.workers(count, f"cpu-{count}-{rate}")[0]
            for load, (count, _, rate) in loads.items()
            for name, build in owners.items()
        }

        def spent(load, name):
            count, rows, rate = loads[load]
            owner = owners[name].owner
            before = owner.ask("used")[0]
            crowds[load, name].ask("log", rows, rate)
            owner.ask("sync")
            return (owner.ask("used")[0] - before) / (count * rows)

        arms = {pair: lambda pair=pair: spent(*pair) for pair in crowds}
        found = harness.interleave(arms, sizes["rounds"], what="processor time")
        for crowd in crowds.values():
            crowd.ask("end")
        logged = sum(count * rows for count, rows, _ in loads.values()) * (sizes["rounds"] + 1)
        logged += sum(count for count, *_ in loads.values())
        lost = {
            name: logged - sum(build.owner.ask("finish").values()) for name, build in owners.items()
        }
    return found, lost


def steps(builds, sizes):
    """Count the owner's steps a second: alone, and while a worker logs 1,000 rows/s.

    A worker "here" takes W&B's own way, which leaves the owner's process out: what it costs is
    that service and worker are on the owner's machine.
    """
    with contextlib.ExitStack() as stack:
        owners = {name: Build(stack, tree) for name, tree in builds.items()}
        arms = {}
        seconds = sizes["step seconds"]
        places = ("remote", "elsewhere"), ("local", "here")

        def alone(build):
            return build.owner.ask("step", seconds)

        def beside(build, worker):
            worker.begin("log", int(RATE * (seconds + 0.4)), RATE)
            time.sleep(0.2)
            made = build.owner.ask("step", seconds)
            worker.end()
            return made

        for name, build in owners.items():
            arms[name, "nobody logs"] = lambda build=build: alone(build)
            for kind, where in places[: 2 if name == NEW else 1]:
                worker = build.workers(1, f"step-{where}", where)[0]
                what = f"a {kind} worker logs"
                arms[name, what] = lambda build=build, worker=worker: beside(build, worker)
        return harness.interleave(arms, sizes["step rounds"], what="steps")


def latency(builds, sizes):
    """Measure a worker's log at several round trips, and that of a worker of this machine.

    Returns:
        Pairs of the seconds until logged and until all is in the run, by build and line.
    """
    with contextlib.ExitStack() as stack:
        found, workers = {}, {}
        for name, tree in builds.items():
            build = Build(stack, tree)
            workers[name, "local"] = build.workers(1, "local", "here")[0]
            for trip in ROUND_TRIPS_MS:
                port = build.relay(trip)
                workers[name, f"{trip} ms"] = build.workers(1, f"remote-{trip}", port=port)[0]

        def timed(arm):
            ((logged, arrived),) = workers[arm].ask("log", LOG_ROWS)
            found.setdefault(arm, []).append((logged, arrived))
            return logged

        arms = {arm: lambda arm=arm: timed(arm) for arm in workers}
        harness.interleave(arms, sizes["rounds"], warm_up=0, what="log")
    return found


def first_rows(builds, sizes):
    """Measure how long the first row of a worker takes: until logged, and until in the run."""
    with contextlib.ExitStack() as stack:
        found, lines = {}, {}
        for name, tree in builds.items():
            build = Build(stack, tree)
            workers = build.process("workers")
            lines[name, "local"] = build, workers, "here", 0
            for trip in ("0", "10"):
                lines[name, f"{trip} ms"] = build, workers, "elsewhere", build.relay(trip)

        def timed(arm):
            build, workers, where, port = lines[arm]
            ((logged, arrived),) = build.connect(workers, 1, "first", where, port)
            workers.ask("end")
            found.setdefault(arm, []).append((logged, arrived))
            return logged

        arms = {arm: lambda arm=arm: timed(arm) for arm in lines}
        harness.interleave(arms, sizes["rounds"], warm_up=0, what="first rows")
    return found


def question(tree, sizes):
    """Measure the longest answer to a worker's question while many others flood.

    Returns:
        Seconds, for a worker elsewhere and for one of this machine; of the first, how many
        questions were answered, and whether the last was; and how many rows the others logged.
    """
    seconds, limit = sizes["flood seconds"], sizes["longest wait"]
    with contextlib.ExitStack() as stack:
        build = Build(stack, tree)
        crowd, _ = build.workers(sizes["flooding"], "flood")
        asking = [build.workers(1, f"asks-{where}", where)[0] for where in ("elsewhere", "here")]
        crowd.begin("flood", seconds)
        for process in asking:
            process.begin("ask", seconds, limit)
        ((longest, answers, is_last_answered),), ((local, *_),) = (p.end() for p in asking)
        rows = sum(crowd.end())
        crowd.ask("kill")
        for process in (crowd, *asking, build.owner):  # what is under way is not waited for
            process.process.kill()
    return {
        "flooding": sizes["flooding"],
        "longest_s": longest,
        "longest_of_local_s": local,
        "answers": answers,
        "last_answered": is_last_answered,
        "rows": rows,
    }


def connections(tree, sizes):
    """Have many connections log a few rows each; count what is lost, and the owner's growth."""
    count = sizes["connections"]
    with contextlib.ExitStack() as stack:
        build = Build(stack, tree)
        before = build.owner.ask("used")
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, str(HERE / "machine_connections.py"), str(count), str(ROWS_EACH)],
            input=build.owner.ask("payload", "elsewhere", 0),
            env={**os.environ, "PYTHONPATH": str(tree)},
            text=True,
            timeout=150,
        )
        took = time.perf_counter() - begun
        after = build.owner.ask("used")
        arrived = build.owner.ask("finish").get("many", 0)
    return {
        "connections": count,
        "rows": count * ROWS_EACH,
        "lost": count * ROWS_EACH - arrived,
        "s": took,
        "owner_cpu_s": after[0] - before[0],
        "growth_bytes": after[2] - before[1],
        "kept_bytes": after[1] - before[1],
    }


# --- all of it --------------------------------------------------------------


def measure(builds, sizes, folder):
    """Measure everything; give the cases, and the goals."""
    os.chdir(folder)
    shared = machine_peers.shared_mode(sizes["peer rows"])
    gathered = machine_peers.gathered(sizes["peer rows"])
    many = connections(TREE, sizes)
    logs, first = latency(builds, sizes), first_rows(builds, sizes)
    spent, lost = processor_time(builds, sizes)
    made = steps(builds, sizes)
    asked = {name: question(tree, sizes) for name, tree in builds.items()}
    goals = [
        *machine_goals.about_processor_time(spent),
        *machine_goals.about_steps(made),
        *machine_goals.about_latency(logs),
        *machine_goals.about_first_rows(first),
        *machine_goals.about_questions(asked),
        *machine_goals.about_connections(many),
    ]
    cases = {
        "owner_cpu_row_s": machine_goals.named(spent),
        "lost": lost,
        "steps_per_s": machine_goals.named(made),
        "latency": machine_goals.of_rows(logs, LOG_ROWS),
        "first_row": machine_goals.of_rows(first, 1),
        "question": asked,
        "connections": many,
        "gather_object_row_s": gathered / sizes["peer rows"],
        "shared mode": shared,
    }
    return cases, goals


def main():
    parser = harness.parser(__doc__, "5")
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT", help="default: %(default)s")
    args = parser.parse_args()
    sizes = dict(QUICK if args.quick else FULL)
    sizes["rounds"] = args.rounds or sizes["rounds"]
    with checkout(args.before) as before, tempfile.TemporaryDirectory() as folder:
        builds = {NEW: TREE, **({OLD: before} if before else {})}
        cases, goals = measure(builds, sizes, folder)
        os.chdir(HERE)
    harness.save("machines", {"cases": cases, "goals": goals}, args.quick)


if __name__ == "__main__":
    main()
