"""A script: carries things to workers by one carrier, and says what became of each.

Usage: carry.py CARRIER SECONDS. Prints a JSON object: for each thing "yes", or what went
wrong in few words. All are carried together; where that fails, each alone, in a process,
a run and a folder of its own, forked from this process, which has imported the framework.
"""

import contextlib
import json
import os
import re
import signal
import sys
import time
import traceback
from pathlib import Path

import carried
import wandb

import wandb_ddp_patch  # noqa: F401
from wandb_ddp_patch import runfile

AT_ONCE = 3
# torch's DataLoader says "Caught ...", and the worker's own error after it.
_ERROR = re.compile(r"^(?:[\w.]+\.)?(\w*Error|Different)(?:: (?!Caught)(.*))?$", re.M)


def carrier_named(name):
    import carriers_clusters
    import carriers_python
    import carriers_training

    for module in (carriers_python, carriers_training, carriers_clusters):
        if name in module.CARRIERS:
            return module.prepare(name)
    raise SystemExit(f"there is no carrier {name!r}")


def carry(carrier, whats, folder):
    """Do it, in a process of its own, which ends here."""
    os.setsid()
    os.chdir(folder)
    log = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        run = wandb.init(mode="offline", project="p", config=carried.CONFIG)
        things = {what: carried.make(what, run) for what in whats}
        carrier({"things": things, "folder": str(folder), "owner": os.getpid()})
        for what, thing in things.items():
            carried.still_works(what, thing, run)
        run.finish()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def in_forks(carrier, batches, seconds):
    """Carry batches of things, each in a fork, a few at once, and end what they leave.

    Yields:
        For each batch: its things, its folder, and its exit status, or None where it has
        not ended in time.
    """
    waiting, running = list(batches), {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            whats = waiting.pop(0)
            folder = Path.cwd() / " and ".join(whats).replace(" ", "_")
            folder.mkdir()
            child = os.fork()
            if not child:
                carry(carrier, whats, folder)
            running[child] = whats, folder, time.monotonic() + seconds
        time.sleep(0.05)
        for child, (whats, folder, deadline) in list(running.items()):
            pid, status = os.waitpid(child, os.WNOHANG)
            if not pid and time.monotonic() < deadline:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # workers that are left, and the service
            if not pid:
                os.waitpid(child, 0)
            del running[child]
            yield whats, folder, (os.WEXITSTATUS(status) or os.WTERMSIG(status)) if pid else None


def judge(whats, folder, ended):
    """Say what became of each, from what workers have noted and what is in the run's file."""
    if ended:
        return dict.fromkeys(whats, first_error(folder) or "fails, without a word")
    if ended is None:
        error = first_error(folder)
        return dict.fromkeys(whats, f"{error}, then hangs" if error else "hangs")
    (file,) = runfile.find(str(folder))
    rows = runfile.history(file)
    found = {}
    for what in whats:
        done = [path.name for path in folder.glob(f"{what} *")]
        found[what] = "yes" if done else first_error(folder) or "no worker has it"
        for name in done if what in ("run", "media") else ():
            kept = sum(name in row for row in rows)
            if kept < carried.ROWS:
                found[what] = f"{kept} of {carried.ROWS} rows"
        if not any("owner" in row for row in rows):
            found[what] = "the owner can log no more"
        if what == "watched model" and not any("gradients" in key for row in rows for key in row):
            found[what] = "the owner's is not watched any more"
    return found


def first_error(folder):
    output = (folder / "output").read_text("utf-8", "replace")
    for name, text in _ERROR.findall(output):
        return text.strip() if name == "Different" else name
    return None


def main():
    name, seconds = sys.argv[1], float(sys.argv[2])
    carrier, found = carrier_named(name), {}
    together = [carried.WHAT] if os.environ.get("WANDB_DDP_PATCH") != "0" else []
    for batches in together, [[what] for what in carried.WHAT]:
        if set(found.values()) != {"yes"}:
            for whats, folder, ended in in_forks(carrier, batches, seconds):
                found.update(judge(whats, folder, ended))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
