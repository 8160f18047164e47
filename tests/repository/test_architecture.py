"""The house is kept: no long file, no long function, and the walls hold."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "wandb_ddp_patch"
TESTBED = ROOT / "testbed" / "wandb_ddp_patch_testbed"
FILES = sorted([*PACKAGE.rglob("*.py"), *TESTBED.rglob("*.py")])
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 500, 40


def too_long(path):
    text = path.read_text("utf-8")
    if len(text.splitlines()) > LINES_OF_A_FILE:
        yield f"{len(text.splitlines())} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if lines > LINES_OF_A_FUNCTION:
                yield f"{node.name}: {lines} lines"


def test_nothing_is_long():
    found = {str(path.relative_to(ROOT)): list(too_long(path)) for path in FILES}
    assert len(FILES) > 20
    assert not {path: long for path, long in found.items() if long}


# Imports that break a wall: in which file, which line, and from where to where.
BROKEN = [
    ("runs/state.py", "from ..handover import fork", "runs.state", "handover.fork"),
    ("runs/liveness.py", "def late():\n    from .. import worker", "runs.liveness", "worker"),
    ("errors.py", "from . import cli", "errors", "cli"),
    (
        "cli.py",
        "def late():\n    from wandb_ddp_patch_testbed import cli",
        "cli",
        "wandb_ddp_patch_testbed.cli",
    ),
]


@pytest.fixture(scope="module")
def linted(tmp_path_factory):
    """What the linter says of a copy with all of these: once, since it takes long to begin."""
    folder = tmp_path_factory.mktemp("walls")
    for package in (PACKAGE, TESTBED):
        shutil.copytree(package, folder / package.name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    lint = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]

    def done():
        return subprocess.run(lint, cwd=folder, capture_output=True, encoding="utf-8")

    assert done().returncode == 0
    for file, line, *_ in BROKEN:
        with open(folder / "wandb_ddp_patch" / file, "a") as broken:
            broken.write(f"\n\n{line}\n")
    return done()


@pytest.mark.xdist_group("walls")
@pytest.mark.parametrize(("file", "line", "source", "target"), BROKEN)
def test_the_linter_sees_a_wall_that_is_broken(linted, file, line, source, target):
    if not target.startswith("wandb"):
        target = f"wandb_ddp_patch.{target}"
    seen = re.sub(r"\s+", " ", linted.stdout)
    assert f"wandb_ddp_patch.{source} -> {target} (l." in seen, linted.stdout
    assert linted.returncode == 1


def test_a_demos_folder_is_not_taken_for_our_own(tmp_path):
    for package in ("wandb", "wandb_ddp_patch"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "script.py").write_text(
        "import wandb\n\nimport wandb_ddp_patch\n\nwandb_ddp_patch, wandb\n"
    )
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "I", "script.py"]
    done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
