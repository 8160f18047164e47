"""Run all benchmarks, draw the plots, and write the table of goals.

The table goes to README.md beside the results and, with --write FILE, between the two
comments named "benchmarks" in a Markdown file. A benchmark that fails says so, and the
others go on; then the exit status is 1. A goal that is missed is in the table, and is
no failure.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import harness

HERE = Path(__file__).resolve().parent
# The short ones first: what is broken shows early. For --quick, startup's own quick
# run is too long.
QUESTIONS = {
    "startup": ["--rounds", "30"],
    "config_reads": [],
    "payload": [],
    "import_wandb": [],
    "worker_start": [],
    "memory": [],
    "handover": [],
    "doctor": [],
    "logging_rate": [],
    "launch": [],
    "unchanged": [],
    "machines": [],
}
MARK = "<!-- benchmarks -->"
TOO_LONG_SECONDS = 1200


def run(name, quick):
    """Run one benchmark, or plots; say how long it took, and whether it went well."""
    command = [sys.executable, str(HERE / f"{name}.py")]
    command += ["--quick", *QUESTIONS.get(name, [])] if quick else []
    begun = time.monotonic()
    try:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=TOO_LONG_SECONDS)
        why = status.returncode and f"exit status {status.returncode}"
    except subprocess.TimeoutExpired:
        why = f"more than {TOO_LONG_SECONDS} s"
    print(f"FAILED: {name}: {why}" if why else f"{name}: {time.monotonic() - begun:.0f} s")
    return not why


def table(names, quick, failed=()):
    """Collect the goals of all results in one table.

    Of a benchmark that has failed, no result is shown: the one that is there is old.
    """
    rows, environments = [], []
    for name in names:
        result = harness.load(name, quick)
        if result is None or name in failed:
            rows.append((name, *[""] * 5, "failed" if name in failed else "no result"))
            continue
        environments.append(result["environment"])
        for goal in result.get("goals", []):
            rows.append(
                (
                    goal["what"],
                    goal["ours"] or "",
                    goal["baseline"] or "",
                    harness.with_unit(harness.ratio(goal["value"]), goal["unit"]),
                    " to ".join(map(harness.ratio, goal["95 %"] or [])),
                    goal["goal"],
                    goal["state"] if goal["state"] == "met" else f"**{goal['state']}**",
                )
            )
    header = "what", "ours", "baseline", "ratio", "95 % interval", "goal", "result"
    return "\n".join([harness.table(header, rows), "", where(environments, quick)])


def where(environments, quick):
    """Say when and on what the results were taken."""

    def each(values):
        return ", ".join(sorted({str(value) for value in values}))

    if not environments:
        return "There are no results."
    packages = each(
        f"{package} {version}"
        for environment in environments
        for package, version in environment["versions"].items()
        if package in ("wandb", "torch")
    )
    return (
        f"On {each(e['date'] for e in environments if 'date' in e)}, with"
        f" {each(e['cores'] for e in environments)} cores,"
        f" Python {each(e['python'] for e in environments)}, {packages}. Times are"
        " medians." + (" **A quick run: few rounds, so much is chance.**" if quick else "")
    )


def write(path, text):
    """Replace what is between the marks of a Markdown file."""
    before = path.read_text("utf-8")
    after, found = re.subn(
        f"{MARK}.*?{MARK}", lambda _: f"{MARK}\n{text}\n{MARK}", before, count=1, flags=re.S
    )
    if not found:
        sys.exit(f"{path} has no two {MARK}")
    path.write_text(after, "utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(QUESTIONS)}")
    parser.add_argument("--quick", action="store_true", help="three minutes, and much chance")
    parser.add_argument("--table-only", action="store_true", help="of the results that are there")
    parser.add_argument("--write", type=Path, metavar="FILE")
    args = parser.parse_args()
    unknown = set(args.names) - set(QUESTIONS)
    if unknown:
        parser.error(f"no benchmark: {', '.join(sorted(unknown))}")
    names = args.names or list(QUESTIONS)
    begun = time.monotonic()
    failed = []
    if not args.table_only:
        for at, name in enumerate(names, 1):
            print(f"== {at} of {len(names)}: {name}", flush=True)
            if not run(name, args.quick):
                failed.append(name)
        if not run("plots", args.quick):
            failed.append("plots")
    text = table(QUESTIONS, args.quick, failed)
    print(text)
    folder = harness.results(args.quick)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"# Benchmarks\n\n{text}\n", "utf-8")
    if args.write:
        write(args.write, text)
    print(f"{time.monotonic() - begun:.0f} s")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
