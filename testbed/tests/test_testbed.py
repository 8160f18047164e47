"""The testbed on real releases, on wandb's own sdist, and on trees that are changed on purpose."""

import contextlib
import copy
import dataclasses
import gzip
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import clean_env
from limits import HANG_SECONDS, SOON_SECONDS

from wandb_ddp_patch import cli, probes
from wandb_ddp_patch.errors import CommandError
from wandb_ddp_patch_testbed import (
    environments,
    exit_status,
    export,
    pypi,
    source_trees,
    specs,
    suite,
)

CLASSES = [name for topic in export.TOPICS.values() for name in topic.probes]


def testbed(*arguments, command="testbed", **env):
    return subprocess.run(
        [sys.executable, "-m", "wandb_ddp_patch", command, *map(str, arguments)],
        env={**clean_env(), "WANDB_DDP_PATCH_CACHE": os.environ["WANDB_DDP_PATCH_CACHE"], **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )


testbed.__test__ = False


@pytest.fixture
def said(capsys):
    """Call a command in this process: an interpreter takes long for a line of an error."""

    def call(*arguments, command="testbed"):
        try:
            status = cli.main([command, *map(str, arguments)])
        except SystemExit as end:  # argparse's
            status = end.code
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, out, err)

    return call


@pytest.fixture(scope="session")
def sdist():
    """wandb's own newest sdist."""
    import wandb

    name = f"wandb-{wandb.__version__}.tar.gz"
    path = environments.cache() / "sdists" / name
    with environments.locked(path.with_name(name + ".lock")):
        if not path.exists():
            index = os.environ.get("UV_INDEX_URL") or "https://pypi.org/simple"
            request = urllib.request.Request(
                f"{index.rstrip('/')}/wandb/",
                headers={"Accept": "application/vnd.pypi.simple.v1+json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    files = json.load(answer)["files"]
                url = next(file["url"] for file in files if file["filename"] == name)
                with urllib.request.urlopen(url, timeout=60) as answer:
                    data = answer.read()
            except (OSError, ValueError, StopIteration) as error:
                pytest.skip(f"the index gives no {name}: {error}")
            path.with_suffix(".part").write_bytes(data)
            path.with_suffix(".part").replace(path)
    return path


@pytest.fixture(scope="session")
def source(sdist, tmp_path_factory):
    """Its source tree without wandb-core, compiled, once for all the processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wandb-of-the-sdist"
    with environments.locked(folder.with_suffix(".lock")):
        if not folder.with_suffix(".ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            unpacked = source_trees.unpacked(sdist)
            shutil.copytree(unpacked / "wandb", folder / "wandb")
            for path in filter(Path.is_file, unpacked.iterdir()):
                shutil.copy2(path, folder)
            env = clean_env(PYTHONPATH=str(folder), WANDB_DDP_PATCH="0")
            command = [sys.executable, "-c", "import wandb"]
            subprocess.run(command, env=env, cwd=base, check=True, capture_output=True)
            folder.with_suffix(".ready").touch()
    return folder


@pytest.fixture
def tree(source, tmp_path):
    """A copy, to be changed."""
    return Path(shutil.copytree(source, tmp_path / "wandb-source"))


def one_line(done, *words):
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("wandb-ddp-patch: ")
    assert all(word in line for word in words), line


# --- what a SPEC is ---------------------------------------------------------


def labels(spec):
    return [target.label for target in specs.targets(spec)]


def test_specs_stand_for_releases():
    assert labels("0.31.0") == ["0.31.0"]
    assert labels("0.16.5") == ["0.16.5"]
    assert labels("0.12") == ["0.12.21"]
    assert labels(">=0.21,<0.22") == ["0.21.0", "0.21.1", "0.21.2", "0.21.3", "0.21.4"]
    (latest,) = labels("latest")
    every = labels("all")
    assert every[: len(environments.RELEASES)] == list(environments.RELEASES)
    assert latest in every
    assert len(every) == len(set(every))


def test_newer_lines_are_found_and_sorted():
    found = pypi.newer_lines("0.22.3")
    assert found[:3] == ["0.23.1", "0.24.2", "0.25.1"]
    assert "0.22.3" not in found


def test_a_release_needs_what_the_known_one_before_it_does():
    assert environments.needs_of("0.12.5") == environments.RELEASES["0.11.2"]
    assert environments.needs_of("0.21.3") == environments.RELEASES["0.21.0"]
    assert environments.needs_of("0.10.1") == environments.RELEASES["0.10.23"]
    assert environments.needs_of("9.0.0")["pins"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["0.99.0"], ["0.99.0", "the index has no such release"]),
        (["0.9999"], ["no such release"]),
        ([">=5"], ["no such release"]),
        (["nonsense"], ["nonsense", "a SPEC is"]),
        (["./no/such/folder"], ["no such file or folder"]),
        (["0.31.0@abc"], ["0.31.0@abc", "no version of Python"]),
        (["0.31.0@3.99", "--only", "preinit"], ["no wandb here that can be tested"]),
        (["tests"], ["tests", "no source tree of wandb"]),
        (["setup.py"], ["setup.py", "neither a wheel nor an sdist"]),
        (["0.31.0", "--only", "nonsense"], ["no such probe: nonsense"]),
        (["0.31.0", "--with-export"], ["--with-export is for source trees"]),
    ],
)
def test_bad_input_is_a_line(said, arguments, words):
    one_line(said(*arguments), *words)


def test_an_interpreter_that_gets_bad_input_says_no_more():
    one_line(testbed("nonsense"), "nonsense", "a SPEC is")


def test_a_broken_sdist_is_a_line(said, tmp_path, sdist):
    whole = sdist.read_bytes()
    with gzip.open(sdist) as file:
        compressed = lzma.compress(file.read(2_000_000), preset=0)
    broken = {
        "cut.tar.gz": whole[:100],
        "cut-later.tar.gz": whole[:2_000_000],
        "damaged.tar.gz": whole[:2000] + bytes(2000) + whole[4000:],
        "damaged.tar.xz": compressed[:-5000] + bytes(5000),
        "of-nothing.tar.gz": gzip.compress(bytes(20480)),
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        one_line(said(tmp_path / name), name)


def test_what_was_interrupted_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DDP_PATCH_CACHE", str(tmp_path / "cache"))
    base = tmp_path / "cache" / "environments" / "base"
    wandb = base / "lib" / "python3.11" / "site-packages" / "wandb"
    for folder, version in ((wandb, "1.0.0"), (tmp_path / "tree" / "wandb", "1.0.1")):
        (folder / "sdk").mkdir(parents=True)
        (folder / "__init__.py").write_text(f'__version__ = "{version}"')
    (base / "bin").mkdir()
    (base / "bin" / "python").symlink_to(sys.executable)
    (base / "ready").touch()
    monkeypatch.setattr(environments, "environment", lambda *_: str(base / "bin" / "python"))

    def made():
        return environments.overlaid("tree", tmp_path / "tree", "1.0.0", "3.11")

    with monkeypatch.context() as patch:
        patch.setattr(environments, "site_packages", lambda folder: sys.exit("interrupted"))
        with pytest.raises(SystemExit):
            made()
    site = environments.site_packages(Path(made()).parent.parent)
    assert "1.0.1" in (site / "wandb" / "__init__.py").read_text()


def member(name, kind=tarfile.REGTYPE, link=""):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, 0 if link else 4
    return found


OUT = {
    "above": [member("wandb-9/a"), member("wandb-9/../../../../out")],
    "absolute": [member("{out}")],
    "through a link": [member("wandb-9/up", tarfile.SYMTYPE, "{out}/.."), member("wandb-9/up/out")],
    "hard link": [member("wandb-9/out", tarfile.LNKTYPE, "{secret}")],
    "device": [member("wandb-9/pipe", tarfile.FIFOTYPE)],
}


@pytest.fixture(params=["as tarfile has it", "without tarfile's filter"])
def unpack(request, tmp_path, monkeypatch):
    """Unpack members into a cache of its own; give the tree and what else there is."""
    if request.param.startswith("without"):  # before Python 3.8.17, 3.9.17, ...
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    elif not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python has no such filter")
    monkeypatch.setenv("WANDB_DDP_PATCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "secret").write_text("mine")

    def call(members):
        with tarfile.open(tmp_path / "wandb-9.tar.gz", "w:gz") as file:
            for found in members:
                for name in ("name", "linkname"):
                    value = getattr(found, name)
                    value = value.format(out=tmp_path / "out", secret=tmp_path / "secret")
                    setattr(found, name, value)
                file.addfile(found, io.BytesIO(b"evil"[: found.size]))
        return source_trees.unpacked(tmp_path / "wandb-9.tar.gz")

    return call


def test_an_sdist_is_unpacked(unpack):
    folder = member("wandb-9/wandb", tarfile.DIRTYPE)
    folder.mode, folder.size = 0o755, 0
    tree = unpack([folder, member("wandb-9/wandb/__init__.py")])
    assert (tree / "wandb" / "__init__.py").read_text() == "evil"


@pytest.mark.parametrize("members", OUT)
def test_nothing_in_an_sdist_leaves_its_folder(unpack, tmp_path, members):
    try:
        unpack(copy.deepcopy(OUT[members]))
    except CommandError as error:
        assert "wandb-9.tar.gz: can't be unpacked: " in str(error)
    else:  # tarfile's filter makes an absolute name one in the folder
        assert members == "absolute" and hasattr(tarfile, "data_filter")
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "secret", "wandb-9.tar.gz"}
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_symlink()]
    assert (tmp_path / "secret").stat().st_nlink == 1


# --- running ----------------------------------------------------------------


def test_a_report_of_two_releases_and_of_what_could_not_be_run(tmp_path):
    done = testbed(
        *("0.16.6", "0.21.4", "0.16.6@3.99", "0.10.33@3.13", "--report", tmp_path / "report"),
        *("--only", "config-copy", "--only", "preinit"),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    data = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    by_label = {entry["label"]: entry for entry in data["environments"]}
    python = "%d.%d" % sys.version_info[:2]
    for label in (f"0.16.6@{python}", "0.21.4"):
        sides = by_label[label]["verdicts"]
        assert {v["passed"] for v in sides["with"].values()} == {True}
        assert {v["passed"] for v in sides["without"].values()} == {False}
        assert "RecursionError" in sides["without"]["config-copy"]["trace"]
    assert "no Python 3.99 here" in by_label["0.16.6@3.99"]["error"]
    assert by_label["0.10.33"]["error"]
    assert {p.name for p in (tmp_path / "report").iterdir()} == {
        "index.html",
        "report.json",
        "report.md",
    }
    assert "Traceback" not in done.stderr
    assert data["command"] == (
        f"wandb-ddp-patch testbed 0.16.6 0.21.4 0.16.6@3.99 0.10.33@3.13 --python {python}"
        " --only config-copy --only preinit --timeout 60"
    )
    assert by_label["0.21.4"]["spec"] == "0.21.4" and by_label["0.21.4"]["commit"] is None
    # It fails where it should, for the reason that it names.
    assert by_label["0.21.4"]["verdicts"]["without"]["config-copy"]["otherwise"] is False


def test_a_failure_for_another_reason_proves_nothing(monkeypatch, tmp_path, capsys):
    probe = probes.PROBES["config-copy"]
    broken = dataclasses.replace(probe, fails="an error that nobody makes")
    monkeypatch.setitem(probes.PROBES, "config-copy", broken)
    options = ["--only", "config-copy", "--only", "preinit", "--report", str(tmp_path)]
    # On a release it is only said: on many an old one, some probe fails at something else.
    assert cli.main(["testbed", "0.21.4", *options]) == 0
    (entry,) = json.loads((tmp_path / "report.json").read_text("utf-8"))["environments"]
    without = entry["verdicts"]["without"]
    assert [without[name]["otherwise"] for name in ("config-copy", "preinit")] == [True, False]
    assert "otherwise" not in entry["verdicts"]["with"]["config-copy"]
    assert (
        "0 of 2 cells (1 fail for another reason) pass without the patch" in capsys.readouterr().out
    )
    # With a diff to prove, it is a failure.
    entry["verdicts"]["export"] = entry["verdicts"]["with"]
    assert exit_status.exit_status({"environments": [entry]}) == 1
    assert "passing with the diff proves nothing: config-copy\n" in capsys.readouterr().out
    without["config-copy"]["otherwise"] = False
    assert exit_status.exit_status({"environments": [entry]}) == 0
    entry["tests"] = {"unproven": ["tests/unit_tests/test_x.py::test_y"]}
    assert exit_status.exit_status({"environments": [entry]}) == 1


def test_a_hang_is_a_failure_with_that_word_and_leaves_no_process(tmp_path):
    # By this its processes are known: others may be at work with that interpreter.
    mark = str(tmp_path)
    only = ("--only", "run-finish", "--timeout", "8")
    testbed("0.31.0", *only, "--report", tmp_path, A_MARK=mark)
    (entry,) = json.loads((tmp_path / "report.json").read_text("utf-8"))["environments"]
    assert entry["verdicts"]["without"]["run-finish"]["reason"] == "hangs: no end after 8 s"
    if os.path.isdir("/proc"):
        # What has been killed is there until the system gets to it.
        deadline = time.monotonic() + SOON_SECONDS
        while processes_with(mark) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert processes_with(mark) == []


def processes_with(mark):
    """The processes whose environment has a variable with this value."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has gone, or is another user's
            if f"={mark}\0".encode() in path.read_bytes():
                found.append(path.with_name("cmdline").read_bytes())
    return found


def test_wandbs_sdist_passes_with_the_diff_and_without_the_patch(sdist, tmp_path):
    only = [word for name in [*CLASSES, "run-disabled"] for word in ("--only", name)]
    done = testbed(sdist, "--with-export", "--report", tmp_path, *only)
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = json.loads((tmp_path / "report.json").read_text("utf-8"))["environments"]
    sides = entry["verdicts"]
    assert {sides["export"][name]["passed"] for name in CLASSES} == {True}
    fine = {name for name in CLASSES if sides["without"][name]["passed"]}
    assert fine == {"config-names"}  # which the diff must not break
    # What a class alone can't do, it says.
    assert sides["export"]["run-disabled"]["passed"] is False
    assert "as they must: run-disabled; they need code that runs in a worker" in done.stdout
    assert "the compiled wandb-core is that release's" in entry["notes"][0]


def test_a_change_to_a_tree_is_what_is_probed(tree, tmp_path):
    config = tree / "wandb" / "sdk" / "wandb_config.py"
    config.write_text(
        config.read_text("utf-8").replace("def __getattr__", "def __reduce__", 1), "utf-8"
    )
    only = ("--only", "config-blank", "--only", "config-names")
    done = testbed(tree, "--report", tmp_path / "report", *only)
    data = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    without = data["environments"][0]["verdicts"]["without"]
    assert without["config-blank"]["passed"], done.stdout  # no __getattr__, no recursion
    assert not without["config-names"]["passed"]


# --- the diff ---------------------------------------------------------------


def test_the_diff_applies_and_is_in_upstreams_style(tree):
    done = testbed(tree, command="export-diff")
    assert done.returncode == 0, done.stderr
    diff = done.stdout
    for word in ("def __getstate__", "class MissingKeyError", "def __reduce__"):
        assert f"+{word}" in diff or f"+    {word}" in diff

    def run(*command, **kwargs):
        subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True, **kwargs)

    run("git", "init", "-q")
    run("git", "apply", "--check", input=diff)
    run("patch", "-p1", input=diff)
    files = [line[6:] for line in diff.splitlines() if line.startswith("+++ b/")]
    files = [file for file in files if file.startswith("wandb/")]
    assert len(files) == 6
    ruff = [sys.executable, "-m", "ruff"]
    run(*ruff, "check", "--no-cache", *files)
    run(*ruff, "format", "--no-cache", "--check", *files)
    assert export.diff(tree) == ""  # it has it all now


CHANGES = {
    "class renamed": ("class Config:", "class Settings2:", "has no class Config"),
    "method gone": ("def __getattr__(", "def getattr_(", "has no __getattr__ in class Config"),
    "no Python": ("class Config:", "class Config", "wandb_config.py, line"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tree_that_is_not_known_gets_no_half_a_diff(said, tree, change):
    old, new, words = CHANGES[change]
    config = tree / "wandb" / "sdk" / "wandb_config.py"
    config.write_text(config.read_text("utf-8").replace(old, new), "utf-8")
    done = said(tree, command="export-diff")
    assert done.stdout == ""
    one_line(done, words)


def test_a_folder_that_is_no_tree_gets_a_line(said, tmp_path):
    one_line(said(tmp_path, command="export-diff"), "no source tree of wandb")
    one_line(said(tmp_path / "gone", command="export-diff"), "there is no such folder")


def test_what_can_not_be_tested_is_said_once_and_why(said):
    done = said("0.31.0@3.99", "--only", "preinit")
    assert (done.stdout + done.stderr).count("no Python 3.99 here") == 1


def test_a_cache_that_can_not_be_written_is_a_line(said, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("WANDB_DDP_PATCH_CACHE", str(tmp_path / "cache"))
    one_line(said("0.31.0"), str(tmp_path / "cache"), "WANDB_DDP_PATCH_CACHE")


def test_a_python_is_found_where_the_home_can_not_be_written(monkeypatch):
    monkeypatch.setenv("HOME", os.devnull)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    assert environments.find_python("%d.%d" % sys.version_info[:2])


def test_old_trees_get_what_wandb_has_had_since(release, tmp_path):
    site = Path(release("0.12.21")).parent.parent
    shutil.copytree(next(site.glob("lib/*/site-packages/wandb")), tmp_path / "wandb")
    diff = export.diff(tmp_path, ["config"])
    # From 0.13 on a missing name is an AttributeError.
    assert "+        except KeyError as ke:" in diff
    assert '+    def __getstate__(self) -> "dict[str, object]":' in diff


# --- the environment of a tree ----------------------------------------------


def test_a_tree_is_laid_over_its_own_release_also_where_that_was_withdrawn(tree):
    init = tree / "wandb" / "__init__.py"
    for version, release in (("0.24.0", "0.24.0"), ("0.24.3.dev1", "0.24.2"), ("0.31.0", "0.31.0")):
        text = init.read_text("utf-8")
        init.write_text(re.sub(r'__version__ = ".+"', f'__version__ = "{version}"', text), "utf-8")
        (target,) = specs.targets(str(tree))
        assert target.release == release


def test_what_a_tree_declares_is_installed_and_a_syntax_error_has_a_place(tree, tmp_path):
    edits = {
        "pyproject.toml": ("dependencies = [", 'dependencies = [\n    "iniconfig",'),
        "wandb/sdk/wandb_config.py": ("class Config:", "import iniconfig\n\n\nclass Config:"),
    }
    for file, (old, new) in edits.items():
        text = (tree / file).read_text("utf-8")
        (tree / file).write_text(text.replace(old, new, 1), "utf-8")
    done = testbed(tree, "--only", "preinit", "--report", tmp_path / "one")
    (entry,) = json.loads((tmp_path / "one" / "report.json").read_text())["environments"]
    assert entry["error"] is None, done.stderr
    (tree / "wandb" / "sdk" / "wandb_summary.py").write_text("import abc\n\ndef (:\n")
    done = testbed(tree, "--only", "preinit")
    assert "wandb/sdk/wandb_summary.py, line 3: SyntaxError" in done.stdout + done.stderr


def test_the_commit_of_a_tree(tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert source_trees.commit_of(tmp_path) == (None, False)
    git("init", "-q")
    assert source_trees.commit_of(tmp_path) == (None, False)  # there is none yet
    (tmp_path / "wandb" / "sdk").mkdir(parents=True)
    (tmp_path / "wandb" / "__init__.py").write_text("")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    (tmp_path / "notes").write_text("no file of Python's")
    assert source_trees.commit_of(tmp_path) == (head, False)
    (tmp_path / "wandb" / "sdk" / "new.py").write_text("")
    assert source_trees.commit_of(tmp_path) == (head, True)
    # An sdist that is unpacked in a repository is none of its commits.
    assert source_trees.commit_of(tmp_path / "wandb") == (None, False)


# --- a tree's own tests -----------------------------------------------------

OWN_TESTS = """
import os, pathlib, sys

WITH = os.environ["WANDB_DDP_PATCH"] == "1"


def test_fine():
    assert WITH <= ("wandb_ddp_patch" in sys.modules)


def test_failing():
    raise AssertionError


class TestClass:
    def test_worse(self):
        assert not WITH


def test_flaky():
    mark = pathlib.Path(os.environ["MARK"])
    if WITH and not mark.exists():
        mark.mkdir()
        raise AssertionError
"""
GONE = "import os\nassert os.environ['WANDB_DDP_PATCH'] == '0'\n\n\ndef test_gone():\n    pass\n"


def test_wandbs_own_tests_are_run_from_three_sides(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    pythons = dict.fromkeys(("without", "with", "export"), sys.executable)
    found = suite.compare(tree, pythons, suite.SuiteOptions())
    assert found["words"] == [
        "wandb's own tests were not run: there is no tests/unit_tests (an sdist has none)"
    ]
    folder = tree / "tests" / "unit_tests"
    folder.mkdir(parents=True)
    (folder / "test_own.py").write_text(OWN_TESTS)
    (folder / "test_gone.py").write_text(GONE)
    paths = tuple(f"tests/unit_tests/test_{name}.py" for name in ("own", "gone"))
    found = suite.compare(tree, pythons, suite.SuiteOptions(paths))
    worse = [f"{paths[0]}::TestClass::test_worse", f"{paths[1]}::test_gone"]
    assert found["worse"] == {"with": worse, "export": []}
    assert found["counts"]["without"] == {"passed": 4, "failed": 1, "skipped": 0}
    assert found["words"] == [
        "Of wandb's own 5 unit tests, 1 fail on this tree as it is",
        f"With the patch, 2 others fail: {', '.join(worse)}",
        "With the change, 0 others fail",
    ]
