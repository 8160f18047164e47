"""What a real Python for Windows shows: run by that itself, see .ci/windows; not by pytest.

Usage: windows_checks.py [CHECK...]. Prints a line for each check; fails if one does. This
package is installed there, and nothing here imports it by name before wandb.
"""

import multiprocessing
import os
import pickle
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
import types

# Under wine, and on a busy machine, an interpreter may take a minute to import wandb.
SECONDS = 1800
TESTS = os.path.dirname(os.path.abspath(__file__))
ROWS = 50


def run(*arguments, fails=False, **env):
    """Run this interpreter, which must end well; give what it said."""
    strange = {name for name in os.environ if name.startswith(("WANDB_", "PYTHON"))}
    ours = {name: value for name, value in os.environ.items() if name not in strange}
    ours.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_API_KEY="0123456789" * 4, **env)
    # No pipe: a service may outlive the script and hold it.
    with tempfile.TemporaryFile() as file:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=ours,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
        file.seek(0)
        out = file.read().decode(errors="replace")
    assert bool(done.returncode) == fails, out
    return out


def of_this_script(function, fails=False):
    """Run a function of this script as the main part of a script."""
    return run(os.path.abspath(__file__), "--", function.__name__, fails=fails)


def rows(name):
    from wandb_ddp_patch import runfile

    (file,) = runfile.find(os.getcwd())
    return [int(row[name]) for row in runfile.history(file) if name in row]


def left_in_temp():
    pattern = re.compile(r"wandb_ddp_patch-[0-9a-f]{32}")
    return {name for name in os.listdir(tempfile.gettempdir()) if pattern.match(name)}


# --- what is installed ----------------------------------------------------------


def check_start_up_files_patch_without_an_import_line():
    copied = "import copy, wandb; copy.copy(wandb.Config()); print('patched')"
    assert run("-c", copied).strip() == "patched"
    assert "RecursionError" in run("-c", copied, fails=True, WANDB_DDP_PATCH="0")


def check_the_command_is_there():
    command = os.path.join(os.path.dirname(sys.executable), "Scripts", "wandb-ddp-patch.exe")
    said = subprocess.run([command, "--version"], stdout=subprocess.PIPE, check=True)
    assert said.stdout.startswith(b"wandb-ddp-patch ")


def check_every_patch_fits():
    code = "import wandb, wandb_ddp_patch as p; print(*[s.target for s in p.status()"
    assert run("-c", code + " if s.state in ('skipped', 'off')])").strip() == ""


# --- rows -----------------------------------------------------------------------


def check_rows_of_spawned_workers_arrive_however_they_end():
    run(os.path.join(TESTS, "logging_workers.py"), "spawn", str(ROWS), "mixed 2")
    for n in range(4):
        assert rows(f"worker {n}") == list(range(ROWS)), (n, len(rows(f"worker {n}")))
    assert len(rows("owner")) == 1


def check_the_owner_finishes_while_workers_have_the_run():
    said = run(os.path.join(TESTS, "logging_workers.py"), "spawn", "0", "owner finishes, attached")
    assert said.split("\n")[0].strip() == str([(True, True)] * 4), said


def log_until_told(run, n, started):
    import wandb

    rows = 0
    with open(f"said {n}", "w") as file:
        try:
            while True:
                run.log({f"worker {n}": rows})
                rows += 1
                if rows == 2:
                    started.release()
                time.sleep(0.005)
        except wandb.errors.UsageError as error:
            print(rows, "has finished it, or has ended" in str(error), file=file)


def start_owner():
    import wandb

    run = wandb.init(project="p")
    started = multiprocessing.Semaphore(0)
    for n in range(2):
        multiprocessing.Process(target=log_until_told, args=(run, n, started)).start()
    for _ in range(2):
        assert started.acquire(timeout=SECONDS)


def owner_that_is_killed():
    start_owner()
    os.kill(os.getpid(), 9)


def what_workers_said():
    said, deadline = [[], []], time.monotonic() + 60
    while not all(said) and time.monotonic() < deadline:
        for n in range(2):
            with open(f"said {n}") as file:
                said[n] = file.read().split()
        time.sleep(0.1)
    assert all(said), "they have not been told within a minute"
    assert [right for _, right in said] == ["True", "True"], "the wrong reason"
    return [int(count) for count, _ in said]


def sweep(before):
    """Let a later owner remove the files that workers had open when theirs ended."""
    for name in left_in_temp() - before:
        os.utime(os.path.join(tempfile.gettempdir(), name), (0, 0))
    run(
        "-c",
        "from wandb_ddp_patch.runs import liveness as file;"
        " file.ensure_owner_file(); file.mark_all_finished()",
    )
    assert left_in_temp() <= before, left_in_temp() - before


def check_the_owner_ends_without_finish_while_workers_log():
    before = left_in_temp()
    of_this_script(start_owner)
    logged = what_workers_said()
    assert [rows(f"worker {n}") for n in range(2)] == [list(range(count)) for count in logged]
    sweep(before)
    return f"{sum(logged)} of {sum(logged)} rows"


def check_the_owner_is_killed_while_workers_log():
    before = left_in_temp()
    of_this_script(owner_that_is_killed, fails=True)
    what_workers_said()
    sweep(before)


def check_the_file_of_an_owner_that_lives_is_not_swept():
    from wandb_ddp_patch.runs import liveness

    path = liveness.ensure_owner_file()
    os.utime(path, (0, 0))
    run(
        "-c",
        "from wandb_ddp_patch.runs import liveness as file;"
        " file.ensure_owner_file(); file.mark_all_finished()",
    )
    assert not liveness.OwnerWatch(path, "some run").is_finished()
    assert liveness.ensure_owner_file() == path
    liveness.mark_finished("some run")
    assert liveness.OwnerWatch(path, "some run").is_finished()
    assert not liveness.OwnerWatch(path, "another run").is_finished()
    liveness.mark_all_finished()
    assert liveness.OwnerWatch(path, "another run").is_finished()


def check_a_process_is_known_by_more_than_its_number():
    from wandb_ddp_patch import _process

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = _process.process_fingerprint(child.pid)
    machine, node, pid, begun = known.split(" ")
    assert not _process.has_exited(known) and int(pid) == child.pid
    assert _process.has_exited(f"{machine} {node} {pid} {int(begun) - 1}")  # another one
    assert not _process.has_exited(f"another {node} {pid} {begun}")  # on another machine
    child.communicate(b"\n")
    assert _process.has_exited(known)  # also while its handle is open


# --- what Windows lacks, or does otherwise ----------------------------------------


def check_spawn_says_what_windows_lacks():
    import wandb_ddp_patch

    try:
        wandb_ddp_patch.spawn(print, start_method="forkserver")
    except ValueError as error:
        return str(error)
    raise AssertionError("it has not said anything")


def check_an_owner_that_refuses_is_told_of():
    from wandb_ddp_patch import errors
    from wandb_ddp_patch.transports.local import OwnerConnection

    assert OwnerConnection._why_refused(types.SimpleNamespace(_pid=1)) == errors.FINISHED


class Run:
    """What an owner that takes calls needs of a run."""

    def __init__(self):
        self.rows = []

    def log(self, row):
        self.rows.append(row)


def open_run():
    from wandb_ddp_patch.runs import state

    run, owned = Run(), state.OwnerState(os.urandom(16).hex())
    state.bind(run, owned)
    return run, owned


def check_workers_up_to_0_12_reach_their_owner():
    from multiprocessing.connection import Client

    from wandb_ddp_patch.errors import RunUnreachableError
    from wandb_ddp_patch.transports import local_server
    from wandb_ddp_patch.transports.local import OwnerConnection

    run, owned = open_run()
    address = local_server.listen_local(owned)
    owner = {"owner_pid": os.getpid(), "owner_fingerprint": None}
    connection = OwnerConnection({"local_address": address, "key": owned.key, **owner})
    assert connection.request(pickle.dumps(("log", ({"n": 1},), {}))) == (True, None)
    stranger = Client(address)
    stranger.recv_bytes()  # the challenge
    try:
        stranger.recv_bytes()  # it is sent away
        raise AssertionError("a silent stranger is kept")
    except (EOFError, OSError):
        pass
    assert connection.request(pickle.dumps(("log", ({"n": 2},), {}))) == (True, None)
    local_server.close_run(owned)
    try:
        connection.request(pickle.dumps(("log", ({"n": 3},), {})))
        raise AssertionError("the run is not over")
    except RunUnreachableError:
        pass
    assert run.rows == [{"n": 1}, {"n": 2}]


def share_with_one_elsewhere():
    """Have a run, and a worker that reaches it by the tunnel, as from another machine."""
    import wandb

    import wandb_ddp_patch
    from wandb_ddp_patch.handover import payload

    run = wandb.init(project="p")
    wandb_ddp_patch.share(run, host="127.0.0.1")
    content = payload.dump(run)
    content["share"] = {**content["share"], "host_fingerprint": "- - - elsewhere"}
    with open("payload", "wb") as file:
        file.write(pickle.dumps(content))
    of_this_script(use_elsewhere)
    assert run.summary["elsewhere"] == ROWS - 1
    run.finish()


def use_elsewhere():
    import wandb

    from wandb_ddp_patch import worker

    with open("payload", "rb") as file:
        run = worker.load_run(pickle.load(file))
    for n in range(ROWS):
        run.log({"elsewhere": n})
    run.log({"html": wandb.Html("<b>bold</b>")})
    run.finish()


def check_a_worker_elsewhere_reaches_its_run():
    of_this_script(share_with_one_elsewhere)
    assert rows("elsewhere") == list(range(ROWS))
    found = [name for _, _, names in os.walk("wandb") for name in names]
    assert sum(name.endswith(".html") for name in found) == 1


# --- the probes, last: they take longest ------------------------------------------


def check_probes_that_need_no_torch():
    from wandb_ddp_patch.probes import PROBES

    run("-m", "wandb_ddp_patch.probes", *PROBES)


def check_doctor():
    # With time: wine is slow.
    code = "import sys; from wandb_ddp_patch import doctor; doctor._TIMEOUT_SECONDS['with'] = 900;"
    return run("-c", code + "sys.exit(doctor.main(False))").strip().splitlines()[-1]


def main(names):
    if names[:1] == ["--"]:
        globals()[names[1]]()
        return 0
    import wandb

    print(f"Python {platform.python_version()}, {platform.platform()}, wandb {wandb.__version__}")
    checks = {name[6:]: check for name, check in globals().items() if name.startswith("check_")}
    failed = 0
    for name in names or checks:
        begun = time.monotonic()
        os.chdir(tempfile.mkdtemp(prefix="check-"))
        try:
            said, result = checks[name](), "passes"
        except Exception:
            said, result = traceback.format_exc(), "FAILS"
            failed += 1
        seconds = f"{time.monotonic() - begun:.0f} s"
        print(f"{result}: {name.replace('_', ' ')}, {seconds}{': ' if said else ''}{said or ''}")
        sys.stdout.flush()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
