"""How fast a worker logs through the run: wandb alone, and with the patch.

A forked or spawned worker gets the run, logs its rows in a loop and ends. Timed is the
whole, from the start of the worker to its end, for what is sent late counts, too; and
the loop alone. The workers of all arms run at the same time and log in turns, 50 rows
each, so that what else the machine does hits all alike. At the end, the rows that have
arrived are counted in the run's file: wandb alone may lose some. Beside them, the relay
of releases up to 0.12, where wandb alone logs nothing from a worker: 0.12.21, patched.

Workers, though, differ from each other by more than what is looked for. So other
workers log in turns through their run and through a twin of it that has wandb's own
methods, without all that the patch has put around them: "time added".

The owner makes the rows of the relay: so each turn of a worker's, until they are made, is
compared with one of the owner's own.

Many rows take minutes: of 10,000 and more, fewer rounds are taken, as the JSON says.
"""

import collections
import contextlib
import os
import random
import statistics
import tempfile
from pathlib import Path

import harness

from wandb_ddp_patch import runfile

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("WANDB_DDP_PATCH_CACHE", str(ROOT / ".cache"))

ALONE, PATCHED, RELAY = "wandb alone", "with the patch", "with the patch, wandb 0.12.21"
METHODS = "fork", "spawn"
ROUNDS = {10: 7, 100: 7, 1000: 7, 10_000: 2, 100_000: 1}
# Rows of a turn, and turns of a worker that compares.
TURN = 50
COMPARED = 40
# The relay, whose rows the owner makes, one after the other, while the worker waits.
RELAY_ROWS = 10_000
# Rows of a turn, and turns of a worker, where those of the relay are compared.
RELAYED, RELAYED_TURNS = 500, 15


class Script(harness.Server):
    """A logging_worker.py, in a folder of its own."""

    def __init__(self, python, patched, folder):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PYTHON"))}
        env.update(
            PYTHONPATH=str(ROOT),
            PYTHONWARNINGS="ignore",
            WANDB_API_KEY="0123456789" * 4,
            WANDB_DDP_PATCH="1" if patched else "0",
            WANDB_SILENT="true",
        )
        self.folder, self.jobs = folder, {}
        script = str(ROOT / "benchmarks" / "logging_worker.py")
        super().__init__(python, script, cwd=folder, env=env)

    def ask(self, *words):
        took = super().ask(*words)
        if took is None:
            raise RuntimeError(f"a worker has died: {' '.join(map(str, words))}")
        return took

    def start(self, method, rows):
        """Start a worker that will log so many rows; it has logged one of them."""
        key = f"job{len(self.jobs)}"
        self.jobs[key] = method, rows
        return self.ask("start", method, key)

    def arrived(self):
        """Count the rows of each job in the file, after the run's end."""
        counts = collections.Counter(
            key
            for path in runfile.find(self.folder)
            for row in runfile.history(path)
            for key in row
            if key in self.jobs
        )
        by_case = collections.defaultdict(list)
        for key, case in self.jobs.items():
            by_case[case].append(counts[key])
        return by_case


def in_turns(scripts, method, rows):
    """Have a worker of each script log so many rows.

    Returns:
        Seconds by the script's name: of the whole, and of the loops alone.
    """
    whole, loops = {}, dict.fromkeys(scripts, 0)

    def in_any_order():
        return random.sample(list(scripts.items()), len(scripts))

    for name, script in in_any_order():
        whole[name] = script.start(method, rows)
    left = rows - 1
    while left:
        turn = min(left, TURN)
        for name, script in in_any_order():
            loops[name] += script.ask("log", turn)
        left -= turn
    for name, script in in_any_order():
        whole[name] += loops[name] + script.ask("end")
    return whole, loops


def compare(script, method, workers):
    """Give the time of a row through a worker's run, of that by wandb's own methods."""
    ratios = []
    for _ in range(workers):
        script.start(method, 1 + 2 * COMPARED * TURN)
        for _ in range(COMPARED):
            ours, own = script.ask("compare", TURN)
            ratios.append(ours / own)
        script.ask("end")
    return ratios


def relayed(script, method, workers):
    """Give the times of rows through the relay, until they are made, and of the owner's own."""
    times = []
    for _ in range(workers):
        script.start(method, 1 + RELAYED_TURNS * RELAYED)
        times += [script.ask("beside", RELAYED) for _ in range(RELAYED_TURNS)]
        script.ask("end")
    return times


def python_of_0_12():
    """Return an interpreter with wandb 0.12.21, or None and why there is none."""
    try:
        from wandb_ddp_patch_testbed import environments

        return environments.environment("0.12.21", "3.11"), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def main():
    parser = harness.parser(__doc__, "7, of 10,000 rows and more fewer")
    parser.add_argument("--rows", type=int, nargs="+", choices=ROUNDS, default=[])
    args = parser.parse_args()
    python, why = python_of_0_12()
    if python is None:
        print(f"skipped: {RELAY}: no environment can be had ({why})")
    sizes = [rows for rows in ROUNDS if rows <= 1000 or not args.quick]
    if args.rows:
        sizes = sorted({1000, *args.rows})
    measured = {}
    with contextlib.ExitStack() as stack:
        scripts = {}
        for name, interpreter in ((ALONE, None), (PATCHED, None), (RELAY, python)):
            if name == RELAY and python is None:
                continue
            # Kept until the rows are counted, after the scripts' ends.
            folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            stack.callback(folder.cleanup)
            scripts[name] = Script(interpreter or harness.PYTHON, name != ALONE, folder.name)
        with contextlib.ExitStack() as running:
            for script in scripts.values():
                running.enter_context(script)
            for method in METHODS:
                in_turns(scripts, method, 10)  # warms up
            for rows in sizes:
                rounds = args.rounds or (1 if args.quick else ROUNDS[rows])
                arms = {n: s for n, s in scripts.items() if n != RELAY or rows <= RELAY_ROWS}
                for _ in harness.progress(range(rounds), f"{rows:,} rows"):
                    for method in METHODS:
                        one = in_turns(arms, method, rows)
                        measured.setdefault((method, rows), []).append(one)
            workers = 1 if args.quick else 8
            by_part = {m: compare(scripts[PATCHED], m, workers) for m in METHODS}
            workers = 1 if args.quick else 3
            by_relay = {m: relayed(scripts[RELAY], m, workers) for m in METHODS if python}
        arrived = {name: script.arrived() for name, script in scripts.items()}
    report(measured, by_part, by_relay, arrived, why, args.quick)


def report(measured, by_part, by_relay, arrived, why, quick):
    cases, goals = [], []
    for (method, rows), rounds in measured.items():
        names = [name for name in arrived if name in rounds[0][0]]
        times = {name: [whole[name] for whole, _ in rounds] for name in names}
        summary = harness.summary(times, ALONE)
        for name, arm in summary.items():
            in_loops = statistics.median(loops[name] for _, loops in rounds)
            arm["rows_per_s"] = (rows - 1) / in_loops
            # The least of all workers, the warm-up's too.
            arm["arrived"] = min(arrived[name][method, rows])
        cases.append({"method": method, "rows": rows, "arms": summary})
    print(
        harness.table(
            (
                "worker",
                "rows",
                "arm",
                "whole",
                "ratio to wandb alone",
                "rows/s in the loop",
                "arrived",
            ),
            [
                (
                    case["method"],
                    f"{case['rows']:,}",
                    name,
                    harness.seconds(arm["median_s"]),
                    f"{arm['of ' + ALONE]:.2f}",
                    harness.figure(arm["rows_per_s"]),
                    f"{arm['arrived']:,}",
                )
                for case in cases
                for name, arm in case["arms"].items()
            ],
        )
    )
    for method, ratios in by_part.items():
        case = next(c for c in cases if (c["method"], c["rows"]) == (method, 1000))
        row = 1 / case["arms"][ALONE]["rows_per_s"]
        what = f"a {method}ed worker logs a row: time added"
        goals.append(harness.goal_by_part(what, ratios, 1, row, ALONE))
    lost = [
        (name, method, rows, min(counts))
        for name, by_case in arrived.items()
        for (method, rows), counts in by_case.items()
        if name != ALONE and min(counts) < rows
    ]
    goals.append(
        harness.goal("cases with the patch in which a row is missing", len(lost), 0, unit="cases")
    )
    result = {
        "cases": cases,
        "by_part": {method: statistics.median(ratios) for method, ratios in by_part.items()},
        "of the owner's own row, wandb 0.12.21": {
            method: statistics.median(worker / own for worker, own in times)
            for method, times in by_relay.items()
        },
        "lost": lost,
        "skipped": why,
        "goals": goals,
    }
    harness.save("logging_rate", result, quick)


if __name__ == "__main__":
    main()
