"""What the benchmarks share: arms in turn, medians, ratios pair by pair, results as JSON.

Every round runs each arm once, in an order of its own, so that what else the machine
does hits all alike; a ratio is the median of the ratios of the rounds, and has a 95 %
interval. Whole processes are timed here; what takes microseconds is timed by pyperf, in
a process for each round. Results are in results/, those of --quick in results/quick/,
which is not kept.
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
import timeit
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
    "pyperf",
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
    for number in progress(range(-warm_up, max(rounds.values())), what):
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


def progress(rounds, what):
    """Show a bar on a terminal, and nothing in a log."""
    return tqdm(rounds, desc=what, unit="round", leave=False, disable=None)


# --- pyperf -----------------------------------------------------------------
#
# pyperf's own way is all processes of one arm, then all of the next: what else the
# machine does would be in the ratios. Here a process measures each arm once.


def pyperf_rounds(script, rounds, what):
    """Run a script that calls :func:`pyperf_round`, a process for each round.

    Returns:
        For each of its benchmarks, by name, the fastest value of each process, in
        seconds.
    """
    import pyperf

    times = {}
    for _ in progress(range(rounds), what):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "pyperf.json")
            command = [PYTHON, script, "--worker", "--loops=1", "--warmups=1", "--values=5"]
            command += ["--output", str(path)]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            for benchmark in pyperf.BenchmarkSuite.load(str(path)):
                times.setdefault(benchmark.get_name(), []).append(min(benchmark.get_values()))
    return times


def pyperf_round(cases, seconds):
    """Measure each case once, in an order of its own, as a worker process of pyperf's.

    By the CPU time of the process, with Python's garbage collector off.

    Args:
        cases: Name, statement, the names that it uses, and what is to be called before.
        seconds: How long one value takes, about: a loop of so many statements.
    """
    import pyperf

    runner = pyperf.Runner()
    options = runner.parse_args()
    for name, statement, names, prepare in random.sample(cases, len(cases)):
        prepare()
        # A new timer each time: its code has not specialised on another arm's class.
        timer = timeit.Timer(statement, timer=time.process_time, globals=names)
        options.loops = loops(timer, seconds)
        runner.bench_time_func(name, timer.timeit)


def loops(timer, seconds):
    """Find out how many loops take so many seconds."""
    number = 1
    while True:
        took = timer.timeit(number)
        if took >= seconds / 8:
            return max(1, round(number * seconds / took))
        number *= 4


# --- figures ----------------------------------------------------------------


def ratios(took, baseline):
    """Divide what an arm took by what the baseline took, round by round."""
    return [t / b for t, b in zip(took, baseline)]


def interval(rounds, statistic=statistics.median, resamples=2000):
    """Give the bootstrap 95 % interval of a statistic; None of fewer than three rounds.

    Resampling has a seed of its own, so that the same values give the same interval.
    https://en.wikipedia.org/wiki/Bootstrapping_(statistics)
    """
    if len(rounds) < 3:
        return None
    draw = random.Random(0)
    drawn = sorted(statistic(draw.choices(rounds, k=len(rounds))) for _ in range(resamples))
    return [drawn[int(resamples * 0.025)], drawn[int(resamples * 0.975)]]


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


def goal(what, value, at_most, ours=None, baseline=None, interval=None, unit=""):
    """Return what is measured, its goal, and whether that is met, missed or undecided.

    Undecided is a goal that is missed, while the interval still contains it.

    Args:
        what: What was measured, as the table's first column says it.
        value: The figure that decides: a ratio, unless there is a unit.
        at_most: The goal: the largest value with which it is met.
        ours: What was measured with the patch, in words for the table.
        baseline: What it was compared with, and what was measured of that.
        interval: The 95 % interval of the value.
        unit: The unit of a value that is not a ratio.
    """
    surely = value if interval is None else interval[0]
    return {
        "what": what,
        "ours": ours,
        "baseline": baseline,
        "value": value,
        "unit": unit,
        "95 %": interval,
        "goal": with_unit(f"<= {at_most:.4g}", unit),
        "state": "met" if value <= at_most else "undecided" if surely <= at_most else "missed",
    }


def goal_by_part(what, ratios, at_most, whole, baseline):
    """Return a goal for the time that the patch adds, timed in the same process as the whole.

    Args:
        ratios: Of the whole with the patch to the same without it, one for each round.
        whole: Seconds that it takes without the patch.
        baseline: What that is, in words for the table.
    """
    ratio = statistics.median(ratios)
    more = f"{seconds(max(ratio - 1, 0) * whole)} more"
    return goal(what, ratio, at_most, more, f"{seconds(whole)}, {baseline}", interval(ratios))


def of(arms, ours, baseline):
    """Give an arm's ratio to a baseline, its interval and both times, for :func:`goal`."""
    return {
        "value": arms[ours]["of " + baseline],
        "interval": arms[ours][f"of {baseline}, 95 %"],
        "ours": seconds(arms[ours]["median_s"]),
        "baseline": f"{seconds(arms[baseline]['median_s'])}, {baseline}",
    }


def seconds(value):
    """Write a time with three digits and the unit that suits it."""
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{figure(value / size)} {unit}"
    return f"{figure(value / 1e-9)} ns" if value else "0 s"


def megabytes(value):
    """Write a number of bytes."""
    return f"{figure(value / 1e6)} MB"


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


class Server:
    """A script in a process of its own: it says "ready", and answers each line with JSON.

    Args:
        command: What starts it.
        options: As subprocess.Popen takes them.
    """

    def __init__(self, *command, **options):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, **options)

    def __enter__(self):
        if self._read() != "ready":
            raise RuntimeError(f"it does not begin as it should: {self._name()}")
        return self

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"it has ended: {self._name()}")
        return line.strip()

    def _name(self):
        return " ".join(map(str, self.process.args[1:]))

    def ask(self, *words):
        """Send a line; give the answer."""
        print(*words, file=self.process.stdin, flush=True)
        return json.loads(self._read())

    def __exit__(self, *exception):
        self.process.stdin.close()
        self.process.wait()


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
        print(f"{goal['state']}: {goal['what']}: {say(goal)}")
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def say(goal):
    value = with_unit(ratio(goal["value"]), goal["unit"])
    return f"{value}{within(goal['95 %'])}, goal {goal['goal']}"


def with_unit(number, unit):
    return f"{number} {unit}" if unit else number


def within(interval):
    """Write an interval, where there is one."""
    return f" ({ratio(interval[0])} to {ratio(interval[1])})" if interval else ""


def ratio(value):
    """Write a ratio: near 1 with three decimals, where the third counts."""
    return f"{value:.3f}" if 0.1 <= value < 10 else figure(value)


def table(header, rows):
    """Format a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)
