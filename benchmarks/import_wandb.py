"""What the shim costs ``import wandb``: whole processes, without it and with it.

Each arm is a new virtual environment that sees the packages of this one; one of them
has the package and its start-up files, as "pip install" puts them there, the other has
not. (WANDB_DDP_PATCH=0 would not do: what is off has still been found and read.) They
run python -c "import wandb" in turns. Beside the wall clock's ratio stands that of the
processes' CPU time, which depends less on what else the machine does.
"""

import importlib.util
import os
import resource
import tempfile
from pathlib import Path

import harness

import startup

WITHOUT, WITH = "wandb", "wandb, patched"


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    args = harness.parser(__doc__, 30).parse_args()
    rounds = args.rounds or (5 if args.quick else 30)
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "COV", "WANDB"))
    }
    cpu = {WITHOUT: [], WITH: []}
    with tempfile.TemporaryDirectory() as folder:
        packages = Path(folder, "packages.pth")
        site = Path(importlib.util.find_spec("wandb").origin).parent.parent
        packages.write_text(f"{site}\n", "utf-8")
        pythons = {
            WITHOUT: startup.make(Path(folder, "without"), packages),
            WITH: startup.make(Path(folder, "with"), packages, *startup.OURS),
        }
        check = "import wandb, sys; print('wandb_ddp_patch._graft' in sys.modules)"
        for name, python in pythons.items():
            seen = startup.output(python, "-c", check, env=env, cwd=folder)
            if seen != str(name == WITH):
                raise RuntimeError(f"patched or not, the wrong way round: {name}")

        def arm(name):
            before = cpu_seconds()
            took = harness.process(pythons[name], "-c", "import wandb", env=env, cwd=folder)
            cpu[name].append(cpu_seconds() - before)
            return took

        arms = {name: (lambda name=name: arm(name)) for name in pythons}
        times = harness.interleave(arms, rounds, 2, "import wandb")
    summary = harness.summary(times, WITHOUT)
    of_cpu = harness.summary({name: took[2:] for name, took in cpu.items()}, WITHOUT)
    ratio = "of " + WITHOUT
    rows = [
        (
            name,
            harness.seconds(summary[name]["median_s"]),
            f"{summary[name][ratio]:.4f}",
            "{:.4f} to {:.4f}".format(*summary[name][ratio + ", 95 %"]),
            f"{of_cpu[name][ratio]:.4f}",
        )
        for name in pythons
    ]
    print(harness.table(("import wandb", "median", "ratio", "95 %", "ratio of CPU time"), rows))
    goal = harness.goal(
        "import wandb",
        summary[WITH][ratio],
        1.01,
        harness.seconds(summary[WITH]["median_s"]),
        f"{harness.seconds(summary[WITHOUT]['median_s'])}, without",
    )
    result = {"arms": summary, "cpu": of_cpu, "goals": [goal]}
    harness.save("import_wandb", result, args.quick)


if __name__ == "__main__":
    main()
