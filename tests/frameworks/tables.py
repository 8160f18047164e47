"""A script: makes the tables of docs/carriers.md of what the tests in this folder have kept.

Usage: PYTHONPATH=tests:tests/helpers:tests/workers tables.py [--write FILE]. Without a file it
prints them.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import arms
import carriers_clusters
import carriers_python
import carriers_training
import test_uses
from carried import WHAT

SHOWN = {"config": "Config", "run": "Run", "summary": "Summary"}
ORDER = [
    name
    for module in (carriers_python, carriers_training, carriers_clusters)
    for name in module.CARRIERS
]
USES = [use[:2] for use in test_uses.USES]


def cell(without, found):
    """Show what came out without the patch and with it."""
    if without is None:
        return found
    if (without, found) == ("yes", "yes"):
        return "yes"
    return f"{without} → {'**yes**' if found == 'yes' else found}"


def used(result):
    """Name the packages that a result is of, with their versions."""
    packages = [name for name in result["versions"] if name not in ("wandb", "torch")]
    return ", ".join(f"{name} {result['versions'][name]}" for name in packages)


def table(head, lines):
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def carriers(results):
    """Make the table of things by carrier."""
    found = {result["carrier"]: result for result in results if "carrier" in result}
    lines = []
    for name in ORDER:
        if name in found:
            without, with_it = found[name]["without"], found[name]["found"]
            cells = [cell(without and without[what], with_it[what]) for what in WHAT]
            lines.append([name, *cells])
    return table(["framework or launcher", *(SHOWN.get(what, what) for what in WHAT)], lines)


def uses(results):
    """Make the table of what people do with each framework."""
    found = {
        (result["framework"], result["what"]): result for result in results if "what" in result
    }
    lines = [
        [framework, what, cell(found[framework, what]["without"], found[framework, what]["found"])]
        for framework, what in USES
        if (framework, what) in found
    ]
    return table(["framework", "what the script does", "rows and checks"], lines)


def text_of(results):
    """Make the tables, below a line that says when and of what they are."""
    dates = sorted({result["date"] for result in results})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    one = results[0]
    others = sorted({use for result in results for use in used(result).split(", ") if use})
    head = (
        f"On {when}, Python {one['python']}, wandb {one['versions']['wandb']},"
        f" torch {one['versions']['torch']}, {', '.join(others)}."
    )
    return "\n\n".join([head, carriers(results), uses(results)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE")
    args = parser.parse_args()
    files = sorted(arms.RESULTS.glob("*.json"))
    if not files:
        sys.exit("there are no results: run make test-frameworks")
    text = text_of([json.loads(file.read_text("utf-8")) for file in files])
    print(text)
    if args.write:
        before = args.write.read_text("utf-8")
        mark = "<!-- carriers -->"
        after = re.sub(f"{mark}.*{mark}", lambda _: f"{mark}\n{text}\n{mark}", before, flags=re.S)
        args.write.write_text(after, "utf-8")


if __name__ == "__main__":
    main()
