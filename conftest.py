"""What the tests of both distributions share: tests/ and testbed/tests."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import forks
import prepared
import pytest
import scripts
import warm_scripts
from scripts import ROOT, clean_env  # noqa: F401

os.environ.setdefault("WANDB_DDP_PATCH_CACHE", str(ROOT / ".cache"))
# Real runs, in offline mode, that say nothing.
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_API_KEY=scripts.API_KEY)


def pytest_collection_modifyitems(config, items):
    # First what fails most often: the rules of the house, and units. Then the longest, so that no
    # worker is left with one at the end.
    first = "unit", "repository"
    items.sort(
        key=lambda item: (item.path.parent.name not in first, "with_the_patch" not in item.name)
    )
    for item in items:
        names = ("test_distributions.py", "test_packaging.py", "test_testbed.py")
        in_environments = item.path.name in names
        if in_environments or "release" in item.fixturenames:
            item.add_marker("releases")
    if config.getoption("loadgroup", False):
        _name_groups(items)


def _name_groups(items):
    # xdist up to 3.8 writes a test's group where pytest from 9.2 on does not look any more: the
    # tests of a group would be shared out among the workers, of which each would start anew what
    # they share.
    for item in items:
        group = item.get_closest_marker("xdist_group")
        if group and hasattr(item, "_id") and "@" not in item.nodeid.rpartition("]")[2]:
            item._id = type(item._id).parse(f"{item.nodeid}@{group.args[0]}")


def pytest_itemcollected(item):
    """Have those of a file and a release on one worker of xdist, which prepares one process."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    grouped = item.get_closest_marker("xdist_group")
    if "version" in params and "run_prepared" in item.fixturenames and not grouped:
        item.add_marker(pytest.mark.xdist_group(f"{item.path.name} {params['version']}"))


@pytest.fixture
def run_script(tmp_path):
    """Run a script in tmp_path, until it ends: see scripts.run_script."""
    return functools.partial(scripts.run_script, cwd=tmp_path)


@pytest.fixture
def run_prepared(run_script):
    """Run a script in a fork of a process that has imported wandb: where imports are not tested."""
    return functools.partial(run_script, start=prepared.Popen)


@pytest.fixture
def fresh(run_script):
    """Run code in a fresh interpreter; it must end well and say nothing of its own."""
    return _runner(run_script)


@pytest.fixture
def forked(run_prepared):
    """The same, in a fork of a process that has imported wandb."""
    return _runner(run_prepared)


def _runner(run_script):
    def run(code, *, python=sys.executable, fails=False, quiet=True, **env):
        done = run_script(f"{code}\n", python=python, env=env, returncode=None)
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        if quiet and not fails:
            assert done.stderr == ""
        return done.stderr if fails else done.stdout

    return run


@pytest.fixture(scope="session")
def interpreters(tmp_path_factory):
    """The interpreters that forked_from() forks, by what they have imported."""
    found = {}

    def get(imports):
        if imports not in found:
            found[imports] = forks.Forks(imports, tmp_path_factory.mktemp("imports"))
        return found[imports]

    yield get
    for each in found.values():
        each.close()


@pytest.fixture
def forked_from(interpreters, tmp_path):
    """Like fresh(), but in a fork of an interpreter with some imports, which saves time."""

    def run(code, *, after, quiet=True, **env):
        done = interpreters(after).run(code, tmp_path, env)
        assert done.returncode == 0, done.stdout + done.stderr
        if quiet:
            assert done.stderr == ""
        return done.stdout

    return run


@pytest.fixture
def warm(tmp_path):
    """Like fresh(), where it does not matter how the script's own process starts: that has imported
    torch and wandb already, which takes seconds."""
    return functools.partial(warm_scripts.run_warm, folder=tmp_path)


@pytest.fixture
def run_case(run_prepared, release, tmp_path):
    """Run a case of a script of workers on a release; return the lines that it has noted."""

    def run(script, version, method, name, returncode=0):
        done = run_prepared(
            script,
            method,
            name,
            python=release(version),
            env=scripts.WORKER_ENV,
            returncode=returncode,
            start_new_session=True,
            stderr=subprocess.STDOUT,
        )
        (tmp_path / "output").write_text(done.stdout, "utf-8")
        said = tmp_path / "said"
        return said.read_text().splitlines() if said.exists() else []

    return run


@pytest.fixture
def release():
    """Return the interpreter of an environment with a wandb release; of None, this one."""
    # late: tests/frameworks has an environment of its own, without the testbed
    from wandb_ddp_patch_testbed import environments

    def get(version, python="3.11"):
        if version is None:
            return sys.executable
        try:
            return environments.environment(version, python)
        except environments.NoPython as error:
            pytest.skip(str(error))

    return get


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A real offline run in a folder of its own."""
    import wandb

    monkeypatch.chdir(tmp_path)
    run = wandb.init(
        project="project",
        group="group",
        name="name",
        config={"lr": 0.1, "layers": [1, 2], "nested": {"depth": 1}},
    )
    yield run
    wandb.finish()


@pytest.fixture
def no_defaults(tmp_path, monkeypatch):
    """A folder without config-defaults.yaml, which Config() reads."""
    monkeypatch.chdir(tmp_path)
    return Path(tmp_path)
