"""Each failure of the catalogue, on each of seven releases, with and without us."""

import contextlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import wandb

from wandb_ddp_patch import _registry, probes
from wandb_ddp_patch.probes import __main__ as command
from wandb_ddp_patch.probes import forks, multiprocess

# The newest release is doctor's, in test_doctor.py.
RELEASES = [
    ("0.10.23", "3.9"),  # the report's own
    ("0.12.21", "3.11"),
    ("0.13.11", "3.11"),
    ("0.16.6", "3.11"),
    ("0.17.9", "3.11"),
    ("0.19.11", "3.11"),
    ("0.21.4", "3.11"),
]
# The end of each way home: a relay, a Python service, wandb-core. The rest is of the nightly run.
DAILY = ("0.10.23", "0.16.6", "0.21.4")
# Without the patch, one of them; PROBE_ALL=1 asks for all.
WITHOUT = RELEASES if os.environ.get("PROBE_ALL") else RELEASES[:1]
# What works without us: dunder names do since 0.13.0, and a run that a worker uses
# and does not finish, but for the releases in which attaching fails or rows are lost,
# and artifacts before there was a client in them.
FINE = {
    *(("config-names", v) for v, _ in RELEASES if v not in ("0.10.23", "0.12.21")),
    *(("run-spawn", v) for v in ("0.16.6", "0.19.11", "0.21.4")),
    *(("run-rows", v) for v in ("0.16.6", "0.19.11")),
    *(("media-artifact", v) for v in ("0.12.21", "0.13.11")),
    *(("media-logged", v) for v in ("0.12.21", "0.13.11")),
}
# What fails without us for another reason than its own, and so proves nothing: where a
# config can't be pickled at all, no key is in its pickle.
OTHERWISE = {
    *(("config-secret", v) for v in ("0.10.23", "0.12.21", "0.13.11", "0.16.6", "0.17.9")),
    *(("checkpoint-alone", v) for v in ("0.12.21", "0.13.11", "0.16.6", "0.17.9")),
}

CATALOGUE = [
    *("config-pickle", "config-copy", "config-spawn", "config-secret", "config-names"),
    *("config-blank", "config-checkpoint", "config-disabled", "config-subclass"),
    *("config-defaults", "yaml-config", "checkpoint-alone"),
    *("run-same-process", "run-config", "run-spawn", "run-rows", "run-finish"),
    *("run-owner-finished", "run-early-server", "run-global", "run-not-passed"),
    *("run-forward", "run-gone", "run-disabled"),
    *("summary-names", "summary-copy", "summary-finished", "summary-fork", "preinit"),
    *("module-held", "watch-pickle", "watch-worker", "media-artifact", "media-logged"),
]


def each(releases):
    marks = [[] if version in DAILY else pytest.mark.nightly for version, _ in releases]
    cases = [pytest.param(*each, marks=m, id=each[0]) for each, m in zip(releases, marks)]
    return pytest.mark.parametrize(("version", "python"), cases)


@each(RELEASES)
def test_with_the_patch(release, version, python):
    # In forks, as doctor does; of one release, each worker is started as its start method does.
    check_with_the_patch(release(version, python), forked=version != "0.16.6")


@pytest.mark.nightly
@pytest.mark.parametrize(("version", "python"), RELEASES)
def test_with_the_patch_in_workers_that_are_really_spawned(release, version, python):
    check_with_the_patch(release(version, python), forked=False)


def check_with_the_patch(python, forked):
    verdicts = probes.run_all(probes.PROBES, patched=True, python=python, forked=forked, jobs=2)
    verdicts = probes.again(verdicts, patched=True, python=python)
    failed = [verdict for verdict in verdicts.values() if verdict.passed is False]
    assert not failed
    reasons = {verdict.reason for verdict in verdicts.values() if verdict.passed is None}
    assert reasons <= {"torch is not installed"}


@pytest.mark.nightly
@pytest.mark.parametrize("python", ["3.14", "3.15"])
def test_with_the_patch_where_forkserver_is_the_default(release, python):
    check_with_the_patch(release(wandb.__version__, python), forked=False)


@each(WITHOUT)
def test_without_the_patch(release, version, python):
    python = release(version, python)
    verdicts = probes.run_all(
        probes.PROBES, patched=False, python=python, timeout=40, forked=True, jobs=2
    )
    fine = {name for name, fine in FINE if fine == version}
    # What works without us has longer than what hangs.
    verdicts.update(
        probes.again({name: verdicts[name] for name in fine}, patched=False, python=python)
    )
    assert {name for name, verdict in verdicts.items() if verdict.passed} == fine
    otherwise = {
        name: verdict.reason
        for name, verdict in verdicts.items()
        if verdict.passed is False and not probes.PROBES[name].is_why(verdict.reason, verdict.trace)
    }
    assert otherwise.keys() == {name for name, other in OTHERWISE if other == version}, otherwise


def test_every_row_of_the_catalogue_has_a_probe():
    assert list(probes.PROBES) == CATALOGUE
    assert all(probe.what.endswith(".") for probe in probes.PROBES.values())


def test_a_probe_names_why_it_fails_and_a_worker_says_why():
    probe = probes.PROBES["config-spawn"]
    assert probe.is_why("RuntimeError: in the spawn worker: RecursionError: maximum", "")
    assert probe.is_why("ProcessRaisedException: a long", "a line\nRecursionError: maximum\n")
    assert not probe.is_why("OSError: no room", "    # RecursionError\nOSError: no room")
    # What can't be loaded in a worker is the worker's answer, not its death.
    with pytest.raises(RuntimeError, match="in the spawn worker: ZeroDivisionError"):
        multiprocess.in_worker(print, _Unloadable())


class _Unloadable:
    def __reduce__(self):
        return divmod, (1, 0)


def test_every_patch_has_probes():
    named = {name.split("-")[0] for name in probes.PROBES}
    by_class = {
        "Config": "config",
        "serialization": "config",
        "serialization without wandb": "checkpoint",
        "SafeRepresenter": "yaml",
        "Summary": "summary",
        "SummaryDisabled": "summary",
        "PreInitCallable": "preinit",
        "RunDisabled": "run",
        "Run": "run",
        "teardown": "run",
        "InterfaceBase": "run",
        "__class__": "module",
        "TorchHistory": "watch",
        "Api": "media",
        "WandbStoragePolicy": "media",
        "Artifact": "media",
    }
    assert {patch.name for patch in _registry.patches()} == set(by_class)
    assert set(by_class.values()) == named


def test_a_probe_that_hangs_or_dies_says_so_and_leaves_nothing(tmp_path):
    (tmp_path / "wandb.py").write_text("import os, time\nos.environ['DIE'] and os._exit(3)\n")
    env = {"PYTHONPATH": str(tmp_path), "DIE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in env.items():
            patch.setenv(key, value)
        # Our own folder comes first in the probe's path, the fake after it.
        verdict = probes.run("config-blank", patched=False)
        assert not verdict.passed
        assert verdict.reason.startswith("died, exit code 3")
        (tmp_path / "wandb.py").write_text("import time\ntime.sleep(600)\n")
        verdict = probes.run("config-blank", patched=False, timeout=2)
        assert verdict.reason == "hangs: no end after 2 s"


@pytest.fixture
def short_folder(monkeypatch):
    """A temporary folder for all that is written; its name is short, for sockets in it."""
    probes.environment(sys.executable, patched=True)  # copies the package, for all probes to come
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_forks_find_what_processes_of_their_own_find_and_leave_nothing(short_folder):
    # The third is of workers that use a run; without the patch, the last one never ends.
    names = ["config-copy", "preinit", "run-forward", "run-finish"]
    for patched in (True, False):
        arguments = dict(patched=patched, forked=True, jobs=4, idle=math.inf if patched else 12)
        found = probes.run_all(names, **arguments)
        assert list(found) == names
        assert {verdict.passed for verdict in found.values()} == {patched}, found
    assert all(probes.PROBES[n].is_why(found[n].reason, found[n].trace) for n in names)
    assert found["run-finish"].reason.endswith("none of its processes does anything")
    assert not list(short_folder.glob("wdp-*"))
    deadline = time.monotonic() + 20
    while left_in(short_folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left_in(short_folder)


def test_where_nothing_can_be_forked_probes_have_processes_of_their_own(tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 20)  # for a socket's name
    folder.mkdir()
    probes.environment(sys.executable, patched=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    found = probes.run_all(["config-blank"], patched=True, forked=True)
    assert found["config-blank"].passed, found


def left_in(folder):
    """The processes whose temporary files are there."""
    mark, found = f"TMPDIR={folder}".encode(), []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in file.read_bytes():
                found.append(file.parent.name)
    return found


def test_a_process_that_waits_is_idle_and_one_that_works_is_not():
    for code, is_idle in (("time.sleep(60)", True), ("while True: pass", False)):
        process = subprocess.Popen(
            [sys.executable, "-c", f"import time\n{code}"], start_new_session=True
        )
        watch = forks.IdleWatch()
        time.sleep(2)  # it has started
        watch.seconds(process.pid)
        time.sleep(2)
        assert (watch.seconds(process.pid) > 1.5) == is_idle
        process.kill()
        process.wait()


def test_a_probe_that_hung_is_asked_once_more_before_it_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    hung = probes.Verdict("config-blank", False, "hangs: no end after 2 s")
    other = probes.Verdict("preinit", False, "AssertionError: config differs")
    told = []

    def again(timeout):
        verdicts = {"preinit": other, "config-blank": hung}
        found = probes.again(verdicts, patched=False, timeout=timeout, done=told.append)
        assert list(found) == ["preinit", "config-blank"]
        assert found["preinit"] is other
        assert told.pop() == found["config-blank"]
        assert not told
        return found["config-blank"]

    (tmp_path / "wandb.py").write_text("class Config: pass\n")
    verdict = again(timeout=120)
    assert verdict.passed
    assert verdict.reason == "as it should be, but it hung at first"
    (tmp_path / "wandb.py").write_text("raise OSError(1)\n")
    verdict = again(timeout=120)
    assert not verdict.passed
    assert verdict.reason == "OSError: 1, but it hung at first"
    (tmp_path / "wandb.py").write_text("import time\ntime.sleep(600)\n")
    verdict = again(timeout=2)
    assert not verdict.passed
    assert verdict.reason == "hangs: no end after 2 s, twice"


def test_what_is_probed_is_the_environments_own_wandb(run_script, release, tmp_path, monkeypatch):
    # Not one that lies in the current folder, or beside this package.
    for folder in (tmp_path / "here", tmp_path / "site"):
        (folder / "wandb").mkdir(parents=True)
        (folder / "wandb" / "__init__.py").write_text("raise SystemExit('the wrong wandb')")
    shutil.copytree(Path(probes.__file__).parent.parent, tmp_path / "site" / "wandb_ddp_patch")
    code = (
        "from wandb_ddp_patch import probes; import sys\n"
        "print(probes.run('config-blank', patched=False, python=sys.argv[1]).reason)"
    )
    done = run_script(
        *("-c", code, release("0.16.6")),
        cwd=tmp_path / "here",
        env={"PYTHONPATH": str(tmp_path / "site")},
        returncode=None,
    )
    assert done.stdout.startswith("RecursionError"), done.stdout + done.stderr


def test_an_unknown_probe_is_a_one_line_error(capsys):
    assert command.main(["nonsense"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_person_is_told_in_a_line_what_a_probe_has_found(run_script):
    for patched, status, said in (("1", 0, "passes"), ("0", 1, "FAILS")):
        module = "wandb_ddp_patch.probes"
        env = {"WANDB_DDP_PATCH": patched}
        done = run_script("-m", module, "config-blank", env=env, returncode=None)
        assert (done.returncode, done.stderr) == (status, "")
        (line,) = done.stdout.splitlines()
        assert line.startswith(f"config-blank: {said} (")
        assert line.endswith(
            "as it should be" if patched == "1" else "maximum recursion depth exceeded"
        )
