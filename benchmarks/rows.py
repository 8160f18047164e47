"""Count how many rows of 200 arrive when four workers log 50 each.

They are counted in the run's file or, with --online, at a stand-in for W&B's server on
this machine (tests/backend), to which the runs are sent in online mode. Each minor release
and start method is counted --repeat times with wandb alone, where all workers simply
return, and with the patch, where each worker ends in a different way (it returns, calls
run.finish() or wandb.finish(), leaves a with block, calls sys.exit(3), or raises).
Each release has its own virtual environment, in .cache. The table is printed and,
with --write FILE, put into a Markdown file between two comments named "rows", or
"rows online".
"""

import argparse
import concurrent.futures
import datetime
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "workers")]

import backend  # noqa: E402
import logging_workers  # noqa: E402
import online_workers  # noqa: E402

from wandb_ddp_patch import runfile  # noqa: E402
from wandb_ddp_patch_testbed import environments  # noqa: E402

os.environ.setdefault("WANDB_DDP_PATCH_CACHE", str(ROOT / ".cache"))

METHODS = ["spawn", "forkserver", "fork"]
ROWS = 50


def kept(release, method, patched, repetition):
    """Count the rows in the file of one run of logging_workers.py."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        script = [logging_workers.__file__, method, str(ROWS), _ending(patched, repetition)]
        _play(release, patched, script, folder, WANDB_API_KEY=backend.KEY, WANDB_SILENT="true")
        return _count(row for file in runfile.find(folder) for row in runfile.history(file))


def kept_online(release, method, patched, repetition):
    """Count the rows that a server has got of one run of online_workers.py."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folder, backend.Backend() as server:
        script = [online_workers.__file__, "rows", method, str(ROWS), _ending(patched, repetition)]
        _play(release, patched, script, folder.name, **server.environment)
        return _count(row for run in server.runs() for row in run.rows)


def _ending(patched, repetition):
    return f"mixed {repetition * logging_workers.WORKERS}" if patched else "return"


def _count(rows):
    return sum(any(key.startswith("worker ") for key in row) for row in rows)


def _play(release, patched, script, folder, **settings):
    """Run a script in an environment with a release, and end what it leaves behind."""
    python = environments.environment(release, "3.9" if release == "0.10.23" else "3.11")
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    env.update(settings, PYTHONPATH=str(ROOT), PYTHONWARNINGS="ignore")
    env["WANDB_DDP_PATCH"] = "1" if patched else "0"
    process = subprocess.Popen(
        [python, *script],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(180)
    except subprocess.TimeoutExpired:
        pass  # what has arrived by now counts
    finally:
        try:
            os.killpg(process.pid, 9)
        except OSError:
            process.kill()
        process.wait()


def table(counts, releases, repeat, what):
    """Make a Markdown table of what was counted."""

    def cell(*key):
        low, high = min(counts[key]), max(counts[key])
        return str(low) if low == high else f"{low} to {high}"

    today = datetime.date.today()
    runs = f"{repeat} run{'s' * (repeat > 1)} each"
    lines = [
        f"{what} of {logging_workers.WORKERS * ROWS}, {runs} each, on {today}:",
        "",
        "| wandb | " + " | ".join(f"{m}, wandb alone" for m in METHODS) + " | "
        "" + " | ".join(f"{m}, with the patch" for m in METHODS) + " |",
        "|---" * (1 + 2 * len(METHODS)) + "|",
    ]
    for release in releases:
        cells = [cell(release, method, patched) for patched in (False, True) for method in METHODS]
        lines.append(f"| {release} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="*", help="default: one of each minor release since 0.10")
    parser.add_argument("--online", action="store_true", help="count what a server has received")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--write", type=Path, metavar="FILE")
    args = parser.parse_args()
    unknown = [release for release in args.releases if release not in environments.RELEASES]
    if unknown:
        parser.error(f"not a known release: {', '.join(unknown)}")
    releases = args.releases or list(environments.RELEASES)

    if args.online:
        count, what, mark = kept_online, "Rows at the server,", "<!-- rows online -->"
    else:
        count, what, mark = kept, "Rows in the run's file,", "<!-- rows -->"
    counts = {}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        jobs = {
            pool.submit(count, release, method, patched, repetition): (release, method, patched)
            for release in releases
            for method in METHODS
            for patched in (False, True)
            for repetition in range(args.repeat)
        }
        for job in tqdm(concurrent.futures.as_completed(jobs), total=len(jobs), unit="run"):
            counts.setdefault(jobs[job], []).append(job.result())
    text = table(counts, releases, args.repeat, what)
    print(text)
    if args.write:
        before = args.write.read_text("utf-8")
        after = re.sub(f"{mark}.*{mark}", lambda _: f"{mark}\n{text}\n{mark}", before, flags=re.S)
        args.write.write_text(after, "utf-8")
    whole = logging_workers.WORKERS * ROWS
    lost = [key for key, rows in counts.items() if key[2] and min(rows) < whole]
    sys.exit(f"rows were lost with the patch: {lost}" if lost else 0)


if __name__ == "__main__":
    main()
