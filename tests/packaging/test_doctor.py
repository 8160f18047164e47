"""The command line: doctor on what is really installed, and what it says of bad input."""

import json
import os
import sys
import tempfile

import pytest
from conftest import clean_env
from limits import HANG_SECONDS

import wandb_ddp_patch
from wandb_ddp_patch import cli, doctor, doctor_text, probes


@pytest.fixture
def command(run_script):
    """Run our command line; return how it ended."""

    def command(*arguments, python=sys.executable, **env):
        return run_script(
            *("-m", "wandb_ddp_patch", *arguments),
            python=python,
            env=env,
            returncode=None,
            seconds=3 * HANG_SECONDS,  # doctor: two sides of two dozen probes
        )

    return command


def test_doctor_says_what_is_here_and_that_all_is_well(command):
    # In a home where nothing can be written; it leaves nothing in the temporary folder, whose
    # name must be short: sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        done = command("doctor", "--json", HOME=f"{os.devnull}/home", TMPDIR=folder)
        assert os.listdir(folder) == []
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["ok"]) == (0, True)
    assert facts["wandb_ddp_patch"] == wandb_ddp_patch.__version__
    assert facts["executable"] == sys.executable
    assert facts["imported_by"] == "nobody"
    assert facts["enabled"] and facts["inactive"].startswith("not active: ")
    states = {patch["target"]: patch["state"] for patch in facts["patches"]}
    assert states["wandb.sdk.wandb_config.Config"] == "applied"
    assert states["torch.serialization"] == "applied"
    assert [row["name"] for row in facts["probes"]] == list(probes.PROBES)
    assert {row["with"]["passed"] for row in facts["probes"]} == {True}
    fine = {row["name"] for row in facts["probes"] if row["without"]["passed"]}
    alone = {"config-names", "run-spawn", "media-artifact", "media-logged"}
    assert fine - {"run-rows"} == alone  # on a busy machine, wandb alone may lose rows
    progress = done.stderr.splitlines()
    assert len(progress) == 2 * len(probes.PROBES)
    assert progress[-1].startswith(f"{len(progress)} of {len(progress)}: ")


def test_status_says_in_a_line_whether_scripts_are_patched(command):
    # Not here: the tests hide the start-up files that the environment may have.
    done = command("status")
    assert done.returncode == 1 and done.stdout.count("\n") == 1
    assert done.stdout.startswith(f"wandb_ddp_patch {wandb_ddp_patch.__version__} is not active: ")
    done = command("status", WANDB_DDP_PATCH="0")
    assert (done.returncode, done.stdout.split(": ")[1]) == (1, "WANDB_DDP_PATCH=0.\n")


def test_a_probe_that_hung_with_the_patch_counts_once_it_was_asked_again(monkeypatch, capsys):
    asked = []

    def run_all(names, *, patched, done, timeout, **_):
        found = {}
        for name in names:
            hangs = name == "config-names" and (not patched or (name, patched) not in asked)
            asked.append((name, patched))
            reason = f"hangs: no end after {timeout} s" if hangs else "as it should be"
            found[name] = probes.Verdict(name, not hangs, reason)
            done(found[name])
        return found

    monkeypatch.setattr(probes, "run_all", run_all)
    monkeypatch.setattr(probes.runner, "run_all", run_all)
    rows = {row["name"]: row for row in doctor._probe()}
    assert list(rows) == list(probes.PROBES)
    hung = {
        "passed": False,
        "reason": f"hangs: no end after {doctor._TIMEOUT_SECONDS['without']} s",
    }
    fine = {"passed": True, "reason": "as it should be, but it hung at first"}
    row = rows.pop("config-names")
    assert (row["without"], row["with"]) == (hung, fine)
    assert {row[side]["passed"] for row in rows.values() for side in ("without", "with")} == {True}
    assert len(asked) == 2 * len(probes.PROBES) + 1
    assert asked[-1] == ("config-names", True)
    total = 2 * len(probes.PROBES)
    progress = capsys.readouterr().err.splitlines()
    assert len(progress) == total
    assert progress[-1] == f"{total} of {total}: config-names, with the patch: passes"


def verdicts(with_passes):
    found = {"passed": False, "reason": "hangs: no end after 15 s"}
    other = {"passed": with_passes, "reason": "AssertionError: got 3"}
    row = {"name": "config-copy", "what": "", "without": found, "with": other}
    return lambda: [row, {**row, "name": "preinit", "with": {"passed": True, "reason": ""}}]


def test_exit_status_tells_of_a_probe_that_fails_with_the_patch(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_probe", verdicts(False))
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "config-copy  fails    FAILS   AssertionError: got 3\n" in out
    assert "preinit      fails    passes  hangs: no end after 15 s\n" in out
    assert "\nOf 2 probes, 0 pass without the patch, 1 with it.\n" in out
    assert out.endswith("\nSomething is wrong here: with the patch, still failing: config-copy.\n")
    assert "\033" not in out
    monkeypatch.setattr(doctor, "_probe", verdicts(None))
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith(
        "\nAll is well, as far as can be tried: 1 of the probes can't be run here.\n"
    )
    monkeypatch.setattr(doctor, "_probe", lambda: verdicts(None)()[:1])
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.endswith("\nNothing is known: no probe can be run here.\n")
    monkeypatch.setattr(doctor, "_probe", verdicts(True))
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("\nAll is well: with the patch, no probe fails.\n")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this platform has no terminals to try")
@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colours(monkeypatch, env, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", **env}.items():
        monkeypatch.setenv(name, value)
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert (doctor_text.coloured("passes ") == "\033[32mpasses \033[0m") == coloured
    os.close(ours)


def test_turned_off_it_says_so(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_DDP_PATCH", "0")
    monkeypatch.setattr(doctor, "_probe", verdicts(True))
    assert cli.main(["doctor"]) == 0
    assert "off: WANDB_DDP_PATCH=0" in capsys.readouterr().out


def test_without_wandb_it_is_a_line(command, tmp_path):
    (tmp_path / "wandb.py").write_text("raise ModuleNotFoundError(name='wandb')")
    for body, said in (
        ("raise ModuleNotFoundError(name='wandb')", "wandb is not installed here"),
        ("import nothing_such", "No module named 'nothing_such'"),
        ("raise OSError('one\\ntwo')", "wandb can't be imported: OSError: one two"),
    ):
        (tmp_path / "wandb.py").write_text(body)
        path = f"{tmp_path}{os.pathsep}{clean_env()['PYTHONPATH']}"
        done = command("doctor", PYTHONPATH=path)
        assert done.returncode == 2
        assert done.stderr == f"wandb-ddp-patch: {said}\n"
        assert "imported by" in done.stdout


def test_help_version_and_bad_input(command):
    assert command("--version").stdout == f"wandb-ddp-patch {wandb_ddp_patch.__version__}\n"
    assert "doctor" in command("--help").stdout
    assert "--json" in command("doctor", "--help").stdout
    for arguments in (["nonsense"], ["doctor", "nonsense"], ["--nonsense"]):
        done = command(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("wandb-ddp-patch: ")
        assert len(done.stderr.splitlines()) == 1
