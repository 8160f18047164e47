"""What the benchmarks share: arms in turn, medians, ratios pair by pair, results as JSON.

Every round runs each arm once, in an order of its own, so that what else the machine
does hits all alike; a ratio is the median of the ratios of the rounds. Results are in
results/, those of --quick in results/quick/, which is not kept.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

PYTHON = sys.executable
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    "wandb",
    "torch",
    "wandb-ddp-patch",
    "omegaconf",
    "ml_collections",
    "easydict",
    "loky",
)


def interleave(arms, rounds, warm_up=1, what=""):
    """Time arms in turn.

    Args:
        arms: Functions by name; each returns the seconds that it took, or None,
            and then it is timed here.
        rounds: How often each is run; or how often, by the arm's name. An arm with
            fewer rounds is in the first ones.
        warm_up: How often each is run before, without being counted.
        what: For the progress bar.

    Returns:
        The seconds of each round, by the arm's name.
    """
    if isinstance(rounds, int):
        rounds = dict.fromkeys(arms, rounds)
    order = list(arms)
    times = {name: [] for name in arms}
    last = max(rounds.values())
    for number in tqdm(range(-warm_up, last), desc=what, unit="round", leave=False):
        random.shuffle(order)
        for name in order:
            if number >= rounds[name]:
                continue
            begun = time.perf_counter()
            took = arms[name]()
            took = time.perf_counter() - begun if took is None else took
            if number >= 0:
                times[name].append(took)
    return times


def ratios(took, baseline):
    """Divide what an arm took by what the baseline took, round by round."""
    return [t / b for t, b in zip(took, baseline)]


def interval(values, resamples=2000):
    """Give the bootstrap 95 % interval of a median.

    Resampling has a seed of its own, so that the same values give the same interval.
    https://en.wikipedia.org/wiki/Bootstrapping_(statistics)
    """
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(values, k=len(values))) for _ in range(resamples)
    )
    return [medians[int(resamples * 0.025)], medians[int(resamples * 0.975)]]


def summary(times, *baselines):
    """Give each arm's median, quartiles and ratio to each baseline of its round."""
    rows = {}
    for name, took in times.items():
        quartiles = statistics.quantiles(took, n=4) if len(took) > 1 else took * 3
        rows[name] = {
            "median_s": statistics.median(took),
            "quartiles_s": [quartiles[0], quartiles[2]],
            "rounds": len(took),
        }
        for baseline in baselines:
            pairs = ratios(took, times[baseline])
            rows[name]["of " + baseline] = statistics.median(pairs)
            rows[name]["of " + baseline + ", 95 %"] = interval(pairs)
    return rows


def slope(xs, ys):
    """Give the slope of the least-squares line."""
    mean_x, mean_y = statistics.mean(xs), statistics.mean(ys)
    over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys))
    return over / sum((x - mean_x) ** 2 for x in xs)


def goal(what, value, at_most, ours=None, baseline=None):
    """Say whether a goal is met; ``ours`` and ``baseline`` are words for the table."""
    return {
        "what": what,
        "ours": ours,
        "baseline": baseline,
        "value": value,
        "goal": f"<= {at_most:.4g}",
        "met": value <= at_most,
    }


def seconds(value):
    """Write a time with three digits and the unit that suits it."""
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{figure(value / size)} {unit}"
    return f"{figure(value / 1e-9)} ns" if value else "0 s"


def figure(value):
    """Write a number with three digits, and never as a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 100 or abs(value) < 1e-9 else digits(value)


def digits(value):
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.8f}".rstrip("0")


def process(*command, env=None, cwd=None):
    """Time a process from its start to its end; it must end well."""
    begun = time.perf_counter()
    subprocess.run(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


@contextlib.contextmanager
def offline_run(**config):
    """Have an offline run, in a temporary folder, as a training script has one."""
    import wandb

    os.environ.update(WANDB_SILENT="true", WANDB_MODE="offline")
    before = os.getcwd()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        run = wandb.init(project="benchmark", config=config)
        try:
            yield run
        finally:
            run.finish()
            os.chdir(before)


def environment():
    """Say what was measured on, but for the machine's name."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "date": str(datetime.date.today()),
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


def results(quick=False):
    """Name the folder of the results."""
    return RESULTS / "quick" if quick else RESULTS


def load(name, quick=False):
    """Read a benchmark's result; None where there is none."""
    path = results(quick) / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def save(name, result, quick=False):
    """Write a benchmark's result beside the others, and say where."""
    path = results(quick) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"environment": environment(), "quick": quick, "goals": [], **result}
    for goal in result["goals"]:
        print(f"{'met' if goal['met'] else 'MISSED'}: {goal['what']}: {say(goal)}")
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def say(goal):
    return f"{figure(goal['value'])} (goal {goal['goal']})"


def table(header, rows):
    """Format a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)
