"""What the tests of both distributions share: tests/ and testbed/tests."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from limits import HANG_SECONDS

ROOT = Path(__file__).resolve().parent
os.environ.setdefault("WANDB_DDP_PATCH_CACHE", str(ROOT / ".cache"))
# Real runs, in offline mode, that say nothing.
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_API_KEY="0123456789" * 4)


def clean_env(**changes):
    """The environment of a user who has never heard of these tests."""
    strange = ("WANDB_", "PYTEST_", "COV_", "PYTHON")
    env = {k: v for k, v in os.environ.items() if not k.startswith(strange)}
    # The environment that the tests run in may have our start-up files.
    path = [ROOT / "tests" / "no_startup", ROOT, ROOT / "testbed"]
    env.update(WANDB_MODE="offline", WANDB_SILENT="true")
    env.update(PYTHONPATH=os.pathsep.join(map(str, path)))
    env.update(changes)
    return {key: value for key, value in env.items() if value is not None}


def pytest_collection_modifyitems(items):
    # The longest first, so that no worker is left with one at the end.
    items.sort(key=lambda item: "test_with_the_shim" not in item.name)
    for item in items:
        in_environments = item.path.name in ("test_packaging.py", "test_testbed.py")
        if in_environments or "release" in item.fixturenames:
            item.add_marker("releases")


@pytest.fixture
def fresh(tmp_path):
    """Run code in a fresh interpreter; it must end well and say nothing of its own."""

    def run(code, *, python=sys.executable, fails=False, quiet=True, **env):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(code), "utf-8")
        done = subprocess.run(
            [python, str(script)],
            cwd=tmp_path,
            env=clean_env(**env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        if quiet and not fails:
            assert done.stderr == ""
        return done.stderr if fails else done.stdout

    return run


@pytest.fixture
def release():
    """Return the interpreter of an environment with a wandb release."""
    # late: tests/frameworks has an environment of its own, without the testbed
    from wandb_ddp_patch_testbed import environments

    def get(version, python="3.11"):
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
