"""How fast a worker logs through the run: wandb alone, and patched.

A forked or spawned worker gets the run, logs its rows in a loop and ends. Timed is the
whole, from the start of the worker to its end, for what is sent late counts, too; and
the loop alone. Two scripts, one of them with WANDB_DDP_PATCH=0, start workers in turns,
each with an offline run of its own; at the end, the rows that have arrived are counted
in the run's file: wandb alone may lose some. Beside them, the relay of releases up to
0.12, where wandb alone logs nothing from a worker: 0.12.21, patched.

Many rows take minutes: of 10,000 and more, fewer rounds are taken, as the JSON says.
"""

import collections
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

from wandb_ddp_patch import runfile

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("WANDB_DDP_PATCH_CACHE", str(ROOT / ".cache"))

UPSTREAM, PATCHED, RELAY = "upstream", "patched", "relay, wandb 0.12.21"
METHODS = "fork", "spawn"
ROUNDS = {10: 7, 100: 7, 1000: 7, 10_000: 2, 100_000: 1}
# The relay waits for an answer to each row.
RELAY_ROWS = 10_000


class Script:
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
        self.process = subprocess.Popen(
            [python, str(ROOT / "benchmarks" / "logging_worker.py")],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        if self.read() != "ready":
            raise RuntimeError("logging_worker.py does not begin as it should")
        return self

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("logging_worker.py has ended")
        return line.strip()

    def __call__(self, method, rows):
        key = f"job{len(self.jobs)}"
        self.process.stdin.write(f"{method} {rows} {key}\n")
        self.process.stdin.flush()
        took = json.loads(self.read())
        if took is None:
            raise RuntimeError(f"a worker has died: {method}, {rows} rows")
        self.jobs[key] = method, rows, took
        return took["whole"]

    def __exit__(self, *exception):
        self.process.stdin.close()
        self.process.wait()

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
        for key, (method, rows, _) in self.jobs.items():
            by_case[method, rows].append(counts[key])
        return by_case


def python_of_0_12():
    """Return an interpreter with wandb 0.12.21, or None and why there is none."""
    try:
        try:
            from wandb_ddp_patch.testbed import environments
        except ImportError:
            sys.path.append(str(ROOT / "tests"))
            import environments
        return environments.environment("0.12.21", "3.11"), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def main():
    args = harness.parser(__doc__, "7, of 10,000 rows and more fewer").parse_args()
    python, why = python_of_0_12()
    if python is None:
        print(f"skipped: {RELAY}: no environment can be had ({why})")
    sizes = [rows for rows in ROUNDS if rows <= 1000] if args.quick else list(ROUNDS)
    times = {}
    with contextlib.ExitStack() as stack:
        scripts = {}
        for name, interpreter in ((UPSTREAM, None), (PATCHED, None), (RELAY, python)):
            if name == RELAY and python is None:
                continue
            # Kept until the rows are counted, after the scripts' ends.
            folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            stack.callback(folder.cleanup)
            scripts[name] = Script(interpreter or harness.PYTHON, name != UPSTREAM, folder.name)
        with contextlib.ExitStack() as running:
            for script in scripts.values():
                running.enter_context(script)
            for rows in sizes:
                rounds = args.rounds or (1 if args.quick else ROUNDS[rows])
                for method in METHODS:
                    arms = {
                        name: (lambda s=script, m=method, r=rows: s(m, r))
                        for name, script in scripts.items()
                        if name != RELAY or rows <= RELAY_ROWS
                    }
                    warm_up = int(rows == sizes[0] and not args.quick)
                    what = f"{rows:,} rows, {method}"
                    times[method, rows] = harness.interleave(arms, rounds, warm_up, what)
        arrived = {name: script.arrived() for name, script in scripts.items()}
    report(times, scripts, arrived, why, args.quick)


def report(times, scripts, arrived, why, quick):
    cases, goals = [], []
    for (method, rows), arms in times.items():
        summary = harness.summary(arms, UPSTREAM)
        for name, arm in summary.items():
            loops = [
                took["logging"]
                for m, r, took in scripts[name].jobs.values()
                if (m, r) == (method, rows)
            ]
            arm["logging_s"] = statistics.median(loops)
            arm["rows_per_s"] = (rows - 1) / arm["logging_s"]
            # The least of all workers, the warm-up's too.
            arm["arrived"] = min(arrived[name][method, rows])
        cases.append({"method": method, "rows": rows, "arms": summary})
    print(
        harness.table(
            ("worker", "rows", "arm", "whole", "of upstream", "rows/s in the loop", "arrived"),
            [
                (
                    case["method"],
                    f"{case['rows']:,}",
                    name,
                    harness.seconds(arm["median_s"]),
                    f"{arm['of ' + UPSTREAM]:.2f}",
                    harness.figure(arm["rows_per_s"]),
                    f"{arm['arrived']:,}",
                )
                for case in cases
                for name, arm in case["arms"].items()
            ],
        )
    )
    for method in METHODS:
        # The most rows with several rounds: one pair alone would be chance.
        several = [c for c in cases if c["method"] == method]
        several = [c for c in several if c["arms"][PATCHED]["rounds"] > 1] or several
        case = several[-1]
        arm, base = case["arms"][PATCHED], case["arms"][UPSTREAM]
        lost = case["rows"] - base["arrived"]
        goals.append(
            harness.goal(
                f"a {method}ed worker logs {case['rows']:,} rows"
                + (f" (upstream loses {lost:,} of them)" if lost else ""),
                arm["of " + UPSTREAM],
                1.05,  # no slower, but for chance
                harness.seconds(arm["median_s"]),
                f"{harness.seconds(base['median_s'])}, upstream",
            )
        )
    lost = [
        (name, case["method"], case["rows"], arm["arrived"])
        for case in cases
        for name, arm in case["arms"].items()
        if name != UPSTREAM and arm["arrived"] < case["rows"]
    ]
    goals.append(harness.goal("logged with the shim, and not arrived (cases)", len(lost), 0))
    result = {"cases": cases, "lost": lost, "skipped": why, "goals": goals}
    harness.save("logging_rate", result, quick)


if __name__ == "__main__":
    main()
