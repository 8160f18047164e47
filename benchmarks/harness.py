"""What the benchmarks share: arms in turn, medians, ratios pair by pair, results as JSON.

Every round runs each arm once, in an order of its own, so that what else the machine
does hits all alike; a ratio is the median of the ratios of the rounds.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

RESULTS = Path(__file__).parent / "results"


def interleave(arms, rounds, warm_up=1, what=""):
    """Time arms in turn.

    Args:
        arms: Functions by name; each returns the seconds that it took, or None,
            and then it is timed here.
        rounds: How often each is run.
        warm_up: How often each is run before, without being counted.
        what: For the progress bar.

    Returns:
        The seconds of each round, by the arm's name.
    """
    order = list(arms)
    times = {name: [] for name in arms}
    for number in tqdm(range(-warm_up, rounds), desc=what, unit="round", leave=False):
        random.shuffle(order)
        for name in order:
            begun = time.perf_counter()
            took = arms[name]()
            took = time.perf_counter() - begun if took is None else took
            if number >= 0:
                times[name].append(took)
    return times


def summary(times, baseline):
    """Give each arm's median, quartiles and ratio to the baseline of its round."""
    rows = {}
    for name, took in times.items():
        quartiles = statistics.quantiles(took, n=4) if len(took) > 1 else took * 3
        ratio = statistics.median(t / b for t, b in zip(took, times[baseline]))
        rows[name] = {
            "median_s": statistics.median(took),
            "quartiles_s": [quartiles[0], quartiles[2]],
            "rounds": len(took),
            f"of {baseline}": ratio,
        }
    return rows


def process(*command, env=None):
    """Time a process from its start to its end; it must end well."""
    begun = time.perf_counter()
    subprocess.run(command, env=env, stdin=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def environment():
    """Say what was measured on, but for the machine's name."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("wandb", "torch", "wandb-ddp-patch", "omegaconf", "ml_collections", "easydict"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def parser(doc, rounds):
    """Make the options that each benchmark has."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes")
    parser.add_argument("--rounds", type=int, help=f"default: {rounds}, or a few with --quick")
    return parser


def save(name, result):
    """Write a benchmark's result beside the others, and say where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), **result}, indent=1) + "\n", "utf-8")
    print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def table(header, rows):
    """Format a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


PYTHON = sys.executable
