"""What doctor takes, beside the build before it forked its probes.

Both builds run in turns, on the wandb and the torch that are installed. The same verdicts
are asked for: what passes with the patch, and without. Goal: a quarter of the time.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
import machine_builds

ROOT = Path(__file__).resolve().parent.parent
# The last commit whose probes imported wandb in each process.
BEFORE = "aac518e"
NOW, THEN = "doctor", "doctor, each probe and worker imports wandb"


def doctor(tree, passed):
    """Return an arm that runs doctor of this tree, and notes what passes."""

    def run():
        with tempfile.TemporaryDirectory(prefix="d-") as folder:
            done = subprocess.run(
                [sys.executable, "-m", "wandb_ddp_patch", "doctor", "--json"],
                env={**os.environ, "PYTHONPATH": str(tree)},
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        rows = json.loads(done.stdout)["probes"]
        # On a busy machine wandb alone may lose rows.
        passed.append(
            {
                (row["name"], side)
                for row in rows
                for side in ("without", "with")
                if row[side]["passed"] and (row["name"], side) != ("run-rows", "without")
            }
        )

    return run


def main():
    args = harness.parser(__doc__, "5").parse_args()
    rounds = args.rounds or (1 if args.quick else 5)
    passed = {NOW: [], THEN: []}
    with machine_builds.checkout(BEFORE) as tree:
        if tree is None:
            sys.exit("there is nothing to compare with")
        arms = {NOW: doctor(ROOT, passed[NOW]), THEN: doctor(tree, passed[THEN])}
        times = harness.interleave(arms, rounds, 0, "doctor")
    if any(each != passed[NOW][0] for each in passed[NOW] + passed[THEN]):
        sys.exit(f"the verdicts differ: {passed}")
    arms = harness.summary(times, THEN)
    goals = [harness.goal("doctor", at_most=0.25, **harness.of(arms, NOW, THEN))]
    harness.save("doctor", {"baselines": [THEN], "arms": arms, "goals": goals}, args.quick)


if __name__ == "__main__":
    main()
