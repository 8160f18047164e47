"""What a new release changes for us: three lines, an exit status, and its entry."""

import json
import shutil

import pytest

from wandb_ddp_patch import cli
from wandb_ddp_patch_testbed import compare, releases


def part(release, without, with_patch):
    def verdicts(found):
        return {name: {"passed": passed, "reason": ""} for name, passed in found.items()}

    sides = {"without": verdicts(without), "with": verdicts(with_patch)}
    return {"release": release, "python": "3.11", "error": None, "verdicts": sides}


def test_three_lines_say_what_is_another():
    old = part("0.31.0", {"a": False, "b": True}, {"a": True, "b": True})
    new = part("0.32.0", {"a": True, "b": True}, {"a": True, "b": False})
    patches = {"wandb.Config": "applied", "wandb.Run": "applied"}
    assert compare.changes(old, new, patches, {**patches, "wandb.Config": "not needed"}) == [
        "0.32.0 since 0.31.0, patches in another state: wandb.Config (not needed, was applied)",
        "0.32.0 since 0.31.0, probes without the patch: a passes",
        "0.32.0 since 0.31.0, probes with the patch: b fails",
    ]
    assert all(line.endswith(": none") for line in compare.changes(old, old, patches, patches))


@pytest.mark.parametrize(
    ("new", "status", "words"),
    [
        ("0.31.0", 0, "0.31.0 since 0.27.2, probes with the patch: none"),
        pytest.param(
            "0.12.21",
            1,
            "0.12.21 since 0.27.2, patches in another state: wandb.",
            marks=pytest.mark.nightly,
        ),
        ("0.27.2", 0, "0.27.2 is what it is compared with: there is nothing to compare"),
    ],
)
def test_the_exit_status_says_whether_anything_is_another(release, capsys, new, status, words):
    for version in ("0.27.2", new):
        release(version)
    assert cli.main(["testbed", new, "--since", "0.27.2", "--only", "config-copy"]) == status
    assert words in capsys.readouterr().out


def test_it_goes_with_no_report(capsys):
    for option in (["--keep"], ["--report", "there"], ["--run-tests"]):
        assert cli.main(["testbed", "0.31.0", "--since", "0.27.2", *option]) == 2
        assert f"--since does not go with {option[0]}" in capsys.readouterr().err


def test_a_new_line_is_entered_by_one_command(tmp_path, monkeypatch, capsys):
    file = shutil.copyfile(releases._FILE, tmp_path / "releases.json")
    monkeypatch.setattr(releases.add_line, "__defaults__", (file,))
    before = json.loads(file.read_text("utf-8"))
    del before["0.27.2"]
    file.write_text(json.dumps(before), "utf-8")
    assert cli.main(["add-line", "0.27.2"]) == 0
    assert "0.27.2 is entered" in capsys.readouterr().out
    assert cli.main(["add-line", "0.27.2"]) == 2
    said = capsys.readouterr().err
    assert said == "wandb-ddp-patch: 0.27.2: a release of its line is there already\n"
    assert json.loads(file.read_text("utf-8")) == releases.RELEASES
    assert cli.main(["add-line", "all"]) == 2
    assert capsys.readouterr().err == "wandb-ddp-patch: all: not one release\n"


def test_a_new_line_is_in_its_place(tmp_path):
    file = tmp_path / "releases.json"
    file.write_text(json.dumps({"0.30.0": {"pins": []}, "0.10.23": {"pins": ["x"]}}), "utf-8")
    assert releases.add_line("0.32.1", file)
    assert not releases.add_line("0.32.2", file)
    assert list(json.loads(file.read_text("utf-8"))) == ["0.10.23", "0.30.0", "0.32.1"]
    assert releases._FILE.read_text("utf-8") == json.dumps(releases.RELEASES, indent=1) + "\n"
