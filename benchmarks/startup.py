"""What the start-up file costs an interpreter, beside those of setuptools and coverage.

Each arm is a virtual environment that differs from the others by what is in its
site-packages. The cost of a start-up file is what a start takes over one with an empty
.pth file, in the same round; goal: at most half of what setuptools' costs.
"""

import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "wandb_ddp_patch"
OURS = [PACKAGE, *sorted((ROOT / "startup").glob("wandb_ddp_patch*.p*"))]


def make(home, *files):
    """Make a virtual environment with these in its site-packages; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = next(home.glob("[Ll]ib*/**/site-packages"))
    for file in files:
        copy = shutil.copytree if Path(file).is_dir() else shutil.copy
        copy(file, site / Path(file).name)
    return str(home / ("Scripts" if os.name == "nt" else "bin") / "python")


def output(*command, **kwargs):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **kwargs)
    return done.stdout.strip()


def environments(folder):
    """Make one environment for each arm; yields its name and interpreter."""
    yield "none", make(folder / "none")
    empty = folder / "empty.pth"
    empty.touch()
    yield "an empty .pth", make(folder / "empty", empty)
    yield "wandb_ddp_patch", make(folder / "ours", *OURS)
    hack = importlib.util.find_spec("_distutils_hack")
    if hack is None:
        sys.exit("setuptools is not installed: there is nothing to compare with")
    hack = Path(hack.origin).parent
    files = hack, hack.with_name("distutils-precedence.pth")
    yield "setuptools", make(folder / "setuptools", *files)
    coverage = importlib.util.find_spec("coverage")
    if coverage is not None:
        package = Path(coverage.origin).parent
        files = package, *package.parent.glob("*coverage*.pth")
        yield "coverage", make(folder / "coverage", *files)


def main():
    args = harness.parser(__doc__, 400).parse_args()
    rounds = args.rounds or (100 if args.quick else 400)
    env = {key: val for key, val in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
    with tempfile.TemporaryDirectory() as folder:
        arms = {
            name: lambda python=python: harness.process(python, "-c", "pass", env=env)
            for name, python in environments(Path(folder))
        }
        times = harness.interleave(arms, rounds, 5, "interpreter start")
    empty = times["an empty .pth"]
    more = {name: [t - e for t, e in zip(took, empty)] for name, took in times.items()}
    over = {name: statistics.median(seconds) for name, seconds in more.items()}
    rows = [
        (name, f"{seconds * 1e3:.2f}", f"{seconds / over['setuptools']:.2f}")
        for name, seconds in over.items()
        if name != "an empty .pth"
    ]
    print(f"over an empty .pth, {rounds} starts of each")
    print(harness.table(("", "ms, median", "of setuptools'"), rows))

    def ratio(pairs):
        ours, others = zip(*pairs)
        return statistics.median(ours) / statistics.median(others)

    pairs = list(zip(more["wandb_ddp_patch"], more["setuptools"]))
    goal = harness.goal(
        "start of Python: time added by the start-up file",
        ratio(pairs),
        0.5,
        harness.seconds(over["wandb_ddp_patch"]),
        f"{harness.seconds(over['setuptools'])}, setuptools' .pth",
        harness.interval(pairs, ratio),
    )
    result = {
        "arms": harness.summary(times, "an empty .pth"),
        "over_empty_s": over,
        "goals": [goal],
    }
    harness.save("startup", result, args.quick)


if __name__ == "__main__":
    main()
