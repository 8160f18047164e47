"""The pages: links lead somewhere, commands exist, and what is marked to run does run."""

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pages
import pytest
import wandb
from conftest import ROOT, clean_env
from limits import HANG_SECONDS

from wandb_ddp_patch import _registry

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages.pages()]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}, line {block.line}")
    for page in pages.pages()
    for block in pages.split(page.read_text("utf-8"))[1]
    if block.mark in (pages.RUN, pages.FAILS)
]

# What a reader has, and we have not: a script of theirs, and a source tree of wandb.
TRAIN = """
import wandb
import wandb_ddp_patch

with wandb.init() as run:
    run.log({"loss": 0.5})
assert {patch.state for patch in wandb_ddp_patch.status()} == {"off"}
"""


def test_there_are_pages():
    names = {page.values[0].name for page in PAGES}
    assert names >= {"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
    assert len(BLOCKS) > 8


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert pages.broken_links(page) == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    assert pages.wrong_commands(page) == []


def test_every_page_can_be_found_from_readme():
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached:
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#:]+\.md)[)#]", page.read_text("utf-8"))
        todo += [(page.parent / link).resolve() for link in links]
    generated = ROOT / "benchmarks" / "results" / "README.md"
    assert set(pages.pages()) - {generated} == reached - {generated}


def test_readme_is_read_in_two_minutes():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_each_generated_table_has_its_place():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    command = r"(rows\.py --online|rows|run_all|matrix|tables)\b[^\n]* --(?:write|readme) (\S+)"
    places = re.findall(command, makefile)
    marks = {"rows.py --online": "rows online", "run_all": "benchmarks", "tables": "carriers"}
    expected = ["tables", "rows", "rows.py --online", "matrix", "run_all"]
    assert [name for name, _ in places] == expected
    for name, file in places:
        mark = marks.get(name, name)
        assert (ROOT / file).read_text("utf-8").count(f"<!-- {mark} -->\n") == 2


def test_the_picture_of_the_house_is_true():
    drawn = pages.split((ROOT / "CONTRIBUTING.md").read_text("utf-8"))[1][0].text
    folders = [ROOT]
    for line in drawn.splitlines():
        depth, name = re.match(r"( *)(\S+)", line).groups()
        del folders[len(depth) // 4 + 1 :]
        assert (folders[-1] / name).exists(), f"there is no {folders[-1] / name}"
        folders.append(folders[-1] / name)


def test_pages_name_the_repository_of_the_metadata():
    repository = re.findall(r'^REPOSITORY = "(.+)"$', (ROOT / "setup.py").read_text("utf-8"), re.M)[
        0
    ]
    for page in ("SECURITY.md", "docs/troubleshooting.md"):
        named = re.findall(r"<(https://github.com/[^/>]+/[^/>]+)", (ROOT / page).read_text("utf-8"))
        assert set(named) == {repository}, page


def test_each_patch_stands_in_the_table_of_them():
    text = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    table = text.partition("\n## What it changes in wandb\n")[2].partition("\n## ")[0]
    names = {code.rpartition(".")[2] for code in re.findall(r"`([^`]+)`", table)}
    names |= {name[1:] for name in names if name.startswith("_")}  # _teardown
    missing = [patch.target for patch in _registry.patches() if patch.name.split()[0] not in names]
    assert not missing


# --- blocks that are run ----------------------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of this repository, with what a reader has of their own."""
    clone = tmp_path_factory.mktemp("pages") / "clone"
    made = shutil.ignore_patterns(*pages.MADE, ".*", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=made)
    (clone / "train.py").write_text(TRAIN, "utf-8")
    tree = clone / "PATH" / "TO" / "wandb"
    shutil.copytree(
        Path(wandb.__file__).parent, tree / "wandb", ignore=shutil.ignore_patterns("bin", "vendor")
    )
    # The commands that installing gives, of the interpreter that runs the tests.
    commands = clone.parent / "bin"
    commands.mkdir()
    for name, what in {"python": "", "wandb-ddp-patch": "-m wandb_ddp_patch"}.items():
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {what} "$@"\n', "utf-8")
        (commands / name).chmod(0o755)
    return clone


@pytest.fixture(scope="module")
def run_block(clone):
    """Run a block; one that stands on two pages is run once."""
    return functools.lru_cache(maxsize=None)(functools.partial(run_in, clone))


def run_in(clone, language, text):
    if language == "python":
        (clone / "script.py").write_text(text, "utf-8")
        command = [sys.executable, "script.py"]
    else:
        assert language == "sh"
        command = ["sh", "-e", "-c", text]
    path = f"{clone.parent / 'bin'}:{clean_env()['PATH']}"
    path_of_modules = [clone / "tests" / "no_startup", clone, clone / "testbed"]
    return subprocess.run(
        command,
        cwd=clone,
        env=clean_env(PATH=path, PYTHONPATH=":".join(map(str, path_of_modules))),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=HANG_SECONDS,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="they are written for another shell")
@pytest.mark.xdist_group("pages")
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_run(run_block, block):
    done = run_block(block.language, block.text)
    assert bool(done.returncode) == (block.mark == pages.FAILS), done.stdout + done.stderr


def test_the_form_that_we_show_is_one_that_linters_leave(tmp_path):
    """In README, install.md and each example: an import whose name is not used is removed."""
    shown = [block.values[0].text for block in BLOCKS if block.values[0].language == "python"]
    shown += [path.read_text("utf-8") for path in (ROOT / "examples").glob("*.py")]
    shown = [text for text in shown if "\nimport wandb_ddp_patch" in f"\n{text}"]
    assert len(shown) > 8
    ruff = [str(Path(sys.executable).with_name("ruff")), "check", "--fix", "--isolated", "-q"]
    for n, text in enumerate(shown):
        (tmp_path / f"{n}.py").write_text(text.replace("# noqa", "#"), "utf-8")
    subprocess.run([*ruff, str(tmp_path)])  # there may be more that can't be mended
    for n, text in enumerate(shown):
        left = (tmp_path / f"{n}.py").read_text("utf-8")
        assert "import wandb_ddp_patch" in left, text
        assert "wandb_ddp_patch." in left, text


# --- the checks themselves --------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[a](gone.md)", "gone.md"),
        ("[a](#no-such-heading)", "no such heading"),
        ("[a](other.md#gone)", "no such heading"),
        ("![a](plots/gone.png)", "gone.png"),
        ("[a](/other.md)", "/other.md"),
        ("[a]\n\n[a]: gone.md", "gone.md"),
    ],
)
def test_a_broken_link_is_found(tmp_path, text, word):
    (tmp_path / "other.md").write_text("# There\n", "utf-8")
    page = tmp_path / "page.md"
    page.write_text(f"# A heading: `x()`\n\n{text}\n", "utf-8")
    (broken,) = pages.broken_links(page)
    assert word in broken
    good = "[a](other.md) [b](other.md#there) [c](#a-heading-x) [d](https://x.org) `[e](gone.md)`"
    page.write_text(f"# A heading: `x()`\n\n{good}\n```sh\n[f](gone.md)\n```\n", "utf-8")
    assert pages.broken_links(page) == []


def block(*lines, mark=""):
    return "\n".join([mark, "```sh", *lines, "```"])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (block("make gone"), "no target: gone"),
        ("Run `make gone`.", "no target: gone"),
        (block("wandb-ddp-patch gone"), "invalid choice"),
        (block("wandb-ddp-patch testbed 0.31.0 --gone"), "--gone"),
        ("`python -m wandb_ddp_patch doctor --gone`", "--gone"),
        (block("X=1 python -m wandb_ddp_patch.probes gone"), "no such probe"),
        (block("python -m wandb_ddp_patch.gone"), "what module"),
        (block("python benchmarks/gone.py"), "benchmarks/gone.py"),
        (block("python benchmarks/run_all.py --gone"), "--gone"),
        (block("pip install \\", "  '.[gone]'"), "no extra: gone"),
        (block("true | gone"), "what command"),
        (block(".ci/gone"), "what command"),
        ("<!-- run -->\n\n" + block("make test"), "before no block"),
        (block("make test", mark="<!-- run it -->"), "what does"),
        (block("make test", mark="<!-- run by gone.py -->"), "there is no gone.py"),
    ],
)
def test_a_wrong_command_is_found(tmp_path, text, word):
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    assert word in "\n".join(pages.wrong_commands(page))


def test_right_commands_are_no_errors(tmp_path):
    page = tmp_path / "page.md"
    good = block(
        "make test lint  # all",
        "wandb-ddp-patch testbed 0.31.0 '>=0.21,<0.22' --python 3.9 --report build > out",
        "X=1 python -m wandb_ddp_patch.probes config-spawn && cd elsewhere && python a/b.py",
    )
    page.write_text(good + "\n`make` it, `python -S`, `wandb-ddp-patch testbed`\n", "utf-8")
    assert pages.wrong_commands(page) == []
