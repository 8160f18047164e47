"""How long unchanged scripts wait for workers: with WANDB_DDP_PATCH_SPAWN, and without it.

The scripts are unchanged_reported.py and unchanged_lightning.py. A first start is that of a
new process each time; the other arms are processes that have started workers before. The
arms take turns.

A first start is short because the script gets ready for it while it imports. What that takes
from a script is timed by the reported one that ends without starting workers: on all cores,
where it has got ready in vain, and on one, where it must not. Lightning is looked for where
"make test-frameworks" puts it.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

HERE = Path(__file__).resolve().parent
FRAMEWORKS = HERE.parent / ".venv-frameworks" / "bin" / "python"
OFF, FIRST = "torch's spawn", "WANDB_DDP_PATCH_SPAWN, first start"
SECOND = "WANDB_DDP_PATCH_SPAWN, later start"
# What is started, by whom, and how much less time it is to take.
REPORTED = "starting the bug report's 4 workers", {FIRST: 0.15, SECOND: 1 / 50}
LIGHTNING = "Lightning's ddp_spawn until the first batch", {SECOND: 1 / 5}

IN_VAIN, ON = "the bug report's script, which starts no workers", "WANDB_DDP_PATCH_SPAWN"
# On several, the other processors do it, as long as the script leaves them to it.
CORES = {"on one core": {ON: 1.02}, "on all cores": {}}


class Arm:
    """A process that starts workers whenever it is called."""

    def __init__(self, python, script, on):
        value = "forkserver" if on else ""
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (Lightning says much)
        self.process = subprocess.Popen(
            [python, str(HERE / script)],
            env={**os.environ, "WANDB_DDP_PATCH_SPAWN": value, "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def __enter__(self):
        return self

    def __call__(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        self.errors.seek(0)
        raise RuntimeError(f"an arm has ended: {self.errors.read()}")

    def __exit__(self, *exception):
        self.process.communicate()
        self.errors.close()


def measure(python, script, rounds, what):
    def first():
        with Arm(python, script, on=True) as arm:
            return arm()

    with Arm(python, script, on=False) as off, Arm(python, script, on=True) as on:
        for arm in (off, on):
            arm()
        times = harness.interleave({OFF: off, FIRST: first, SECOND: on}, rounds, 0, what)
    return harness.summary(times, OFF)


def measure_in_vain(where, rounds):
    """Time the whole script, with the variable and without it."""
    cores = os.sched_getaffinity(0)

    def process(value):
        env = {**os.environ, "WANDB_DDP_PATCH_SPAWN": value, "CUDA_VISIBLE_DEVICES": ""}
        os.sched_setaffinity(0, {min(cores)} if where == "on one core" else cores)
        try:
            return harness.process(harness.PYTHON, str(HERE / "unchanged_reported.py"), env=env)
        finally:
            os.sched_setaffinity(0, cores)

    arms = {OFF: lambda: process(""), ON: lambda: process("forkserver")}
    return harness.summary(harness.interleave(arms, rounds, 1, where), OFF)


def has_lightning(python):
    command = [python, "-c", "import lightning"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    return False


def main():
    parser = harness.parser(__doc__, "5")
    parser.add_argument("--lightning", default=str(FRAMEWORKS), metavar="PYTHON")
    args = parser.parse_args()
    rounds = args.rounds or (1 if args.quick else 5)
    todo = [(*REPORTED, harness.PYTHON, "unchanged_reported.py")]
    if has_lightning(args.lightning):
        todo.append((*LIGHTNING, args.lightning, "unchanged_lightning.py"))
    else:
        print(f"Lightning is left out: not installed for {args.lightning}", file=sys.stderr)
    result, goals = {}, []

    def report(what, arms, at_most):
        result[what] = arms
        rows = [
            (name, harness.seconds(arm["median_s"]), f"{arm['of ' + OFF]:.4f}", arm["rounds"])
            for name, arm in arms.items()
        ]
        print(harness.table((what, "median", "of spawn", "rounds"), rows))
        goals.extend(
            harness.goal(f"{what}, {arm}", at_most=most, **harness.of(arms, arm, OFF))
            for arm, most in at_most.items()
        )

    for what, at_most, python, script in todo:
        report(what, measure(python, script, rounds, what), at_most)
    for where, at_most in CORES.items():
        report(f"{IN_VAIN}, {where}", measure_in_vain(where, 2 * rounds), at_most)
    harness.save("unchanged", {"baselines": [OFF], "starts": result, "goals": goals}, args.quick)


if __name__ == "__main__":
    main()
