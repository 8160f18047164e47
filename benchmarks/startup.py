"""What the start-up file costs an interpreter, beside those of setuptools and coverage.

Each arm is a virtual environment that differs from the others by what is in its
site-packages. The cost of a start-up file is what a start takes over one with an empty
.pth file, in the same round; goal: at most half of what setuptools' costs.

On each Python that this machine has, a start with our files is also compared to one with
none of ours, alone and beside setuptools' file.
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

from wandb_ddp_patch_testbed import uvtool

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "wandb_ddp_patch"
VERSIONS = [f"3.{minor}" for minor in range(8, 16)]
OURS = [PACKAGE, *sorted((ROOT / "startup").glob("wandb_ddp_patch*.p*"))]


def make(home, *files, python=sys.executable):
    """Make a virtual environment with these in its site-packages; return its Python."""
    subprocess.run([python, "-m", "venv", "--without-pip", home], check=True)
    site = next(home.glob("[Ll]ib*/**/site-packages"))
    for file in files:
        copy = shutil.copytree if Path(file).is_dir() else shutil.copy
        copy(file, site / Path(file).name)
    return str(home / ("Scripts" if os.name == "nt" else "bin") / "python")


def setuptools_files():
    hack = importlib.util.find_spec("_distutils_hack")
    if hack is None:
        sys.exit("setuptools is not installed: there is nothing to compare with")
    hack = Path(hack.origin).parent
    return hack, hack.with_name("distutils-precedence.pth")


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
    yield "setuptools", make(folder / "setuptools", *setuptools_files())
    coverage = importlib.util.find_spec("coverage")
    if coverage is not None:
        package = Path(coverage.origin).parent
        files = package, *package.parent.glob("*coverage*.pth")
        yield "coverage", make(folder / "coverage", *files)


def measure_pythons(folder, rounds, env):
    """Compare starts with our files to starts without, on each Python; return the ratios."""
    ratios = {}
    for version in VERSIONS:
        try:
            python = uvtool.find_python(version)
        except uvtool.NoPython as error:
            print(f"Python {version} is left out: {error}")
            continue
        theirs = setuptools_files()
        files = {"none": (), "ours": OURS, "setuptools": theirs, "both": (*theirs, *OURS)}
        arms = {}
        for name, content in files.items():
            started = make(folder / f"{version}-{name}", *content, python=python)
            arms[name] = lambda started=started: harness.process(started, "-c", "pass", env=env)
        times = harness.interleave(arms, rounds, 5, f"start of Python {version}")
        for name, pair in {"alone": ("ours", "none"), "beside": ("both", "setuptools")}.items():
            pairs = harness.ratios(*(times[arm] for arm in pair))
            ratios[version, name] = statistics.median(pairs), harness.interval(pairs)
    return ratios


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
        ratios = measure_pythons(Path(folder), rounds // 2, env)
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
    found = list(dict.fromkeys(version for version, _ in ratios))
    worst = max(ratios, key=lambda key: ratios[key][0])
    beside = {"alone": "", "beside": ", beside setuptools' file"}[worst[1]]
    start = harness.goal(
        f"start of Python {found[0]} to {found[-1]} (worst case: {worst[0]}{beside})",
        ratios[worst][0],
        1.05,
        baseline="no start-up file of ours",
        interval=ratios[worst][1],
    )
    result = {
        "arms": harness.summary(times, "an empty .pth"),
        "over_empty_s": over,
        "goals": [goal, start],
        "pythons": {f"{version}, {name}": each for (version, name), each in ratios.items()},
    }
    harness.save("startup", result, args.quick)


if __name__ == "__main__":
    main()
