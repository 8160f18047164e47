"""What the patch adds to ``import wandb``.

Each arm is a new virtual environment that sees the packages of this one; one of them
has the package and its start-up files, as "pip install" puts them there, the other has
not. (WANDB_DDP_PATCH=0 would not do: what is off has still been found and read.) They
run python -c "import wandb" in turns.

Whole processes vary by more than what is looked for. So a third arm, which has the
package but not its start-up files, imports wandb alone and then, in the same process,
the package, which patches wandb at once; and its finder is asked for each module that
wandb has brought. What that adds is put in proportion to what wandb alone took: "time
added".
"""

import importlib.util
import os
import statistics
import tempfile
from pathlib import Path

import harness

import startup

ALONE, WITH = "wandb alone", "with the patch"


PART = """
import sys, time
known = set(sys.modules)
begun = time.perf_counter()
import wandb
alone = time.perf_counter() - begun
paths = {}
for name in set(sys.modules) - known:
    parent = sys.modules.get(name.rpartition(".")[0])
    paths[name] = getattr(parent, "__path__", None)
begun = time.perf_counter()
import wandb_ddp_patch
ours = time.perf_counter() - begun
finder = wandb_ddp_patch._finder
behind = [each.find_spec for each in sys.meta_path if each is not finder]
watched = {name: path for name, path in paths.items() if name in finder.watched}
assert len(watched) > 5

def asked_anyway():
    begun = time.perf_counter()
    for name, path in watched.items():
        next(spec for find in behind if (spec := find(name, path, None)))
    return time.perf_counter() - begun

asked_anyway()
begun = time.perf_counter()
for name, path in paths.items():
    finder.find_spec(name, path)
ours += time.perf_counter() - begun - asked_anyway()
print(1 + ours / alone)
"""


def main():
    args = harness.parser(__doc__, 20).parse_args()
    rounds = args.rounds or (5 if args.quick else 20)
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "COV", "WANDB"))
    }
    by_part = []
    with tempfile.TemporaryDirectory() as folder:
        packages = Path(folder, "packages.pth")
        site = Path(importlib.util.find_spec("wandb").origin).parent.parent
        packages.write_text(f"{site}\n", "utf-8")
        pythons = {
            ALONE: startup.make(Path(folder, "without"), packages),
            WITH: startup.make(Path(folder, "with"), packages, *startup.OURS),
        }
        third = startup.make(Path(folder, "part"), packages, startup.PACKAGE)
        check = "import wandb, sys; print('wandb_ddp_patch._registry' in sys.modules)"
        for name, python in pythons.items():
            seen = startup.output(python, "-c", check, env=env, cwd=folder)
            if seen != str(name == WITH):
                raise RuntimeError(f"patched or not, the wrong way round: {name}")

        def part():
            by_part.append(float(startup.output(third, "-c", PART, env=env, cwd=folder)))

        arms = {
            name: lambda python=python: harness.process(
                python, "-c", "import wandb", env=env, cwd=folder
            )
            for name, python in pythons.items()
        }
        warm_up = 2
        times = harness.interleave({**arms, "part": part}, rounds, warm_up, "import wandb")
    summary = harness.summary({name: times[name] for name in arms}, ALONE)
    by_part = by_part[warm_up:]
    ratio, whole = statistics.median(by_part), harness.of(summary, WITH, ALONE)
    rows = [
        ("whole processes", harness.ratio(whole["value"]) + harness.within(whole["interval"])),
        ("time added", harness.ratio(ratio) + harness.within(harness.interval(by_part))),
    ]
    print(
        harness.table(
            ("import wandb with the patch, ratio to wandb alone", f"{rounds} rounds"), rows
        )
    )
    goals = [
        harness.goal_by_part(
            "import wandb: time added", by_part, 1.01, summary[ALONE]["median_s"], ALONE
        ),
        harness.goal("import wandb: whole process", at_most=1.01, **whole),
    ]
    result = {"arms": summary, "by_part": ratio, "goals": goals}
    harness.save("import_wandb", result, args.quick)


if __name__ == "__main__":
    main()
