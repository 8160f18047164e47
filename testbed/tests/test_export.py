"""The exported pull requests, on trees in wandb's own layout: source, tests, change log, text."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, clean_env
from limits import HANG_SECONDS

from wandb_ddp_patch import cli, probes
from wandb_ddp_patch.errors import CommandError
from wandb_ddp_patch_testbed import export, outcomes, source_trees, upstream_ruff
from wandb_ddp_patch_testbed.export import changelog, style, syntax

CONFIG = "wandb/sdk/wandb_config.py"
CHANGELOG = """# Unreleased changes

## Unreleased

### Added

- Something (@somebody in https://github.com/wandb/wandb/pull/1)

### Security

- Something else (@somebody in https://github.com/wandb/wandb/pull/2)
"""


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """The installed wandb's Python files, in a tree as wandb's repository is one."""
    import wandb

    folder = tmp_path_factory.mktemp("sources") / "wandb-source"
    package = Path(wandb.__file__).parent
    for path in (*package.rglob("*.py"), *package.rglob("*.pyc")):
        target = folder / "wandb" / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    # So that each copy has it compiled, if an installer has not done so.
    env = clean_env(PYTHONPATH=str(folder), WANDB_DDP_PATCH="0")
    subprocess.run([sys.executable, "-c", "import wandb"], env=env, cwd=folder.parent, check=True)
    (folder / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.10"\n')
    (folder / changelog.FILE).write_text(CHANGELOG)
    old = folder / "tests" / "unit_tests" / "test_wandb_config.py"
    old.parent.mkdir(parents=True)
    old.write_text('"""config tests."""\n\nimport pytest\n\n\ndef test_old():\n    assert pytest\n')
    system = folder / "tests" / "system_tests" / "test_core" / "test_wandb_run.py"
    system.parent.mkdir(parents=True)
    system.write_text(
        "import pickle\n\nimport pytest\nimport wandb\n\n\n"
        + export.TOPICS["run"].was("tests/system_tests/test_core/test_wandb_run.py")
    )
    return folder


@pytest.fixture
def tree(sources, tmp_path):
    """A copy, to be changed."""
    return Path(shutil.copytree(sources, tmp_path / "wandb-source"))


def put_in(tree, *topics):
    """Make the change in the tree itself."""
    found = export.change(tree, topics)
    for file, text in found.files.items():
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_text(text, "utf-8")
    return found


def edit(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def run_tests(tree, tests, folder):
    """Run tests, by their paths in a tree, in an interpreter whose wandb is another tree's."""
    for file, text in tests.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, "utf-8")
    result = folder / "result.xml"
    options = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={result}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        env=clean_env(PYTHONPATH=str(tree), WANDB_DDP_PATCH="0", WANDB_MODE="offline"),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    found = outcomes.read(result)
    assert found, done.stdout + done.stderr
    return {name: outcome for name, outcome in found.items() if not name.endswith("::test_old")}


def doubts(topic, found):
    """Those of a topic's tests that prove nothing, and why."""
    why = {name: outcomes.doubt(name, how, [export.TOPICS[topic]]) for name, how in found.items()}
    return {name.rpartition("::")[2]: words for name, words in why.items() if words}


# --- each topic -------------------------------------------------------------


def test_each_topic_has_probes_tests_and_a_title_of_wandbs_form():
    known = {name for topic in export.TOPICS.values() for name in topic.probes}
    assert known <= set(probes.PROBES)
    for topic in export.TOPICS.values():
        assert re.fullmatch(r"fix\(sdk\): [a-z`][^\n]+", topic.title), topic.title
        assert topic.probes and topic.text and topic.line
        assert any(path.startswith("tests/unit_tests/") for path in topic.parts())
        for path, part in topic.parts().items():
            assert "``" not in part and "patched" not in part
            long = [line for line in part.splitlines() if len(line) > 80]
            assert long == [], path


def test_the_page_names_the_probes_that_need_more_than_the_diff():
    text = (ROOT / "docs" / "upstream.md").read_text("utf-8").split("These probes still fail")[1]
    named = set(re.findall("`([a-z-]+)`", text))
    mended = {name for topic in export.TOPICS.values() for name in topic.probes}
    assert not named & mended
    # The rest pass on the newest wandb as it is, or with what a topic does beside.
    rest = {"run-spawn", "run-rows", "summary-fork"}
    assert {*probes.PROBES} - named - mended == rest


@pytest.mark.parametrize("topic", export.TOPICS)
def test_its_tests_fail_on_the_tree_and_pass_with_it(tree, tmp_path, topic):
    needs = export.TOPICS[topic].after
    if topic == "torch":
        pytest.importorskip("torch")
    if needs:
        put_in(tree, *needs)
    plain = shutil.copytree(tree, tmp_path / "plain")
    found = put_in(tree, topic)
    lines = [(file, line) for file, line in changed_lines(plain, found.files) if line[1:].strip()]
    assert len([line for file, line in lines if file[:6] == "wandb/"]) < 90
    assert topic != "config" or len(lines) < 120  # with its tests
    tests = {f: text for f, text in found.files.items() if f.startswith("tests/unit_tests")}
    without = run_tests(plain, tests, tmp_path / "without")
    assert doubts(topic, without) == {}
    named = {name.partition("[")[0] for name in export.TOPICS[topic].reasons}
    assert {name.rpartition("::")[2].partition("[")[0] for name in without} == named
    assert any(map(outcomes.fails, without.values()))
    with_it = run_tests(tree, tests, tmp_path / "with")
    assert {name: how.state for name, how in with_it.items()} == dict.fromkeys(without, "passed")


def test_a_test_that_fails_at_itself_proves_nothing(tree, tmp_path):
    """As eight of config's did once: pickle refuses a local function, with and without it."""
    file = "tests/unit_tests/test_wandb_config.py"
    text = export.change(tree, ["config"]).files[file]
    assert "    return run.config\n" in text
    callback = "    run.config._set_callback(lambda **changes: None)\n    return run.config\n"
    text = text.replace("    return run.config\n", callback)
    found = doubts("config", run_tests(tree, {file: text}, tmp_path / "without"))
    assert {"test_config_pickle_has_no_secrets", "test_config_in_spawned_process"} <= set(found)
    for words in found.values():
        assert "it fails without the change for another reason: AttributeError: Can't " in words
        assert "_get_run_config.<locals>.<lambda>" in words


def test_what_is_no_proof():
    file, topic = "tests/unit_tests/test_wandb_config.py", export.TOPICS["config"]
    failed = outcomes.Outcome("failed", "RecursionError: maximum\n recursion depth")
    for test, outcome, words in (
        ("test_config_pickle[3]", failed, ""),
        ("test_config_pickle[3]", outcomes.Outcome("passed"), "it passes without the change"),
        ("test_config_pickle[3]", outcomes.Outcome("skipped"), "it is not run without the change"),
        ("test_config_pickle[3]", None, "it is not run without the change"),
        (
            "test_config_pickle_has_no_secrets",
            failed,
            "it fails without the change for another reason:"
            " RecursionError: maximum recursion depth",
        ),
        ("test_of_nobody", failed, "it names no reason"),
    ):
        assert outcomes.doubt(f"{file}::{test}", outcome, [topic]) == words
    summary = "tests/unit_tests/test_wandb_summary.py::test_missing_attribute_is_key_error"
    passed = outcomes.Outcome("passed")
    assert outcomes.doubt(summary, passed, [topic, export.TOPICS["summary"]]) == ""
    assert "it fails without" in outcomes.doubt(summary, failed, [export.TOPICS["summary"]])


def changed_lines(tree, files):
    file = ""
    for line in export.as_diff(tree, files).splitlines():
        if line.startswith("+++ "):
            file = line[6:]
        elif line[:1] in "+-" and not line.startswith("--- "):
            yield file, line


def test_all_of_it_applies_and_then_is_not_needed(tree, capfdbinary):
    assert cli.main(["export-diff", str(tree)]) == 0
    diff = capfdbinary.readouterr().out
    for command in (["git", "init", "-q"], ["git", "apply", "-"]):
        subprocess.run(command, cwd=tree, input=diff, check=True)
    assert cli.main(["export-diff", str(tree)]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b""
    for topic in export.TOPICS:
        assert f"{topic}: not needed: this tree does it".encode() in err
    # The old behaviour's own test is changed, not doubled.
    text = (tree / "tests/system_tests/test_core/test_wandb_run.py").read_text("utf-8")
    assert text.count("def test_attach_same_process") == 1 and "pytest" not in text


def test_what_a_tree_does_in_its_own_way_is_not_needed(tree):
    edit(
        tree / CONFIG,
        "    def __contains__(self, key):",
        "    def __reduce__(self):\n"
        "        return _made, (dict(self),)\n\n"
        "    def __contains__(self, key):",
    )
    made = "def _made(items):\n    config = Config()\n    config.update(items)\n    return config\n"
    edit(tree / CONFIG, "class Config:", f"{made}\n\nclass Config:")
    edit(
        tree / CONFIG,
        "    def __getattr__(self, key):\n",
        "    def __getattr__(self, key):\n"
        "        if key.startswith('_'):\n            raise AttributeError(key)\n",
    )
    found = export.change(tree, ["config"])
    assert found.notes == ["config: not needed: this tree does it"]
    assert found.files == {}


def test_a_half_way_fix_is_named_and_left_alone(tree):
    edit(
        tree / CONFIG,
        "    def __contains__(self, key):",
        "    def __getstate__(self):\n        return {}\n\n    def __contains__(self, key):",
    )
    with pytest.raises(
        CommandError, match=r"wandb_config.py, line \d+: Config.__getstate__ is neither"
    ):
        export.change(tree, ["config"])
    assert export.change(tree, ["preinit"]).files


def test_torch_builds_on_config(tree):
    with pytest.raises(CommandError, match="torch builds on config, which this tree does not have"):
        export.change(tree, ["torch"])
    with pytest.raises(CommandError, match="no such topic: nonsense"):
        export.change(tree, ["nonsense"])


def test_a_stand_in_that_pickle_finds_by_its_name_is_half_a_fix(tree):
    edit(
        tree / "wandb" / "sdk" / "lib" / "preinit.py",
        "    preinit_wrapper.__name__ = str(name)\n",
        "    preinit_wrapper.__name__ = str(name)\n"
        "    preinit_wrapper.__module__ = 'wandb'\n"
        "    preinit_wrapper.__qualname__ = str(name).rpartition('.')[2]\n",
    )
    # log, taken before wandb.init(), can't be pickled after it.
    with pytest.raises(CommandError, match="PreInitCallable is neither wandb's nor this change's"):
        export.change(tree, ["preinit"])


def test_the_comment_that_asks_for_pickling_is_where_the_text_says(tree):
    text = export.TOPICS["config"].text
    first, last = map(int, re.search(r"wandb_config.py`,\s+lines (\d+) to (\d+)", text).groups())
    quoted = re.search('asks for this.+?"(.+?)"', text, re.S).group(1)
    lines = (tree / CONFIG).read_text("utf-8").splitlines()
    assert quoted in lines[first], lines[first - 1 : last]
    assert lines[last].startswith("class Config")
    # It stays there: what is new goes above it.
    put_in(tree)
    after = (tree / CONFIG).read_text("utf-8")
    assert "\n".join(lines[first - 1 : last + 1]) in after


# --- faults that were -------------------------------------------------------


def test_a_bare_torch_module_does_not_keep_wandb_from_being_imported(tree, fresh):
    put_in(tree)
    code = f"""
        import sys, types
        sys.path.insert(0, {str(tree)!r})
        sys.modules["torch"] = types.ModuleType("torch")
        import wandb
        assert wandb.__file__.startswith({str(tree)!r})
        wandb.Config()
        assert "ImportHookFinder" not in map(lambda f: type(f).__name__, sys.meta_path)
    """
    fresh(code, WANDB_DDP_PATCH="0")


def test_runs_that_are_gone_leave_nothing_behind(tree, fresh):
    put_in(tree, "run")
    code = f"""
        import gc, pickle, sys
        sys.path.insert(0, {str(tree)!r})
        import wandb
        from wandb.sdk import wandb_run
        runs = [wandb_run.Run(settings=wandb.Settings(run_id=str(n))) for n in range(20)]
        pickles = [pickle.dumps(run) for run in runs]
        assert len(wandb_run._pickled_runs) == 20
        assert pickle.loads(pickles[7]) is runs[7]
        del runs
        gc.collect()
        assert len(wandb_run._pickled_runs) == 0
    """
    fresh(code, WANDB_DDP_PATCH="0")


def test_patches_that_a_wandb_with_all_of_it_needs_still(tree, fresh):
    put_in(tree)
    code = f"""
        import sys
        sys.path.insert(0, {str(tree)!r})
        import wandb_ddp_patch, wandb
        assert wandb.__file__.startswith({str(tree)!r})
        print(*(f"{{one.target}}: {{one.state}}" for one in wandb_ddp_patch.status()), sep="\\n")
    """
    states = dict(line.split(": ") for line in fresh(code).splitlines())
    needless = {name.rpartition(".")[2] for name, state in states.items() if state == "not needed"}
    assert {"Config", "Summary", "SummaryDisabled", "PreInitCallable"} <= needless
    # In a worker, a run does much that a class by itself does not.
    assert states["wandb.sdk.wandb_run.Run"] == "applied"


def test_mixed_line_ends_stay_as_they_are(tree):
    path = tree / CONFIG
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\r\n".join(lines[:40]) + b"\r\n" + b"\n".join(lines[40:]))
    diff = export.diff(tree, ["config"])
    assert "\r" not in "".join(line for line in diff.splitlines(True) if "__getstate__" in line)
    removed = [line for line in diff.splitlines() if re.match("-(?!-- )", line)]
    assert removed == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a\r\nb\r\n", "a\nx\nb\n", "a\r\nx\r\nb\r\n"),
        ("a\r\nb\nc\n", "a\nb\nx\nc\n", "a\r\nb\nx\nc\n"),
        ("", "x\n", "x\n"),
    ],
)
def test_a_new_line_ends_as_the_one_above_it(before, after, expected):
    assert style.with_line_ends(after, before) == expected


def test_a_syntax_error_is_named_wherever_it_is(tree, capsys):
    (tree / "wandb" / "plot" / "bar.py").write_text("import os\n\ndef (:\n")
    assert source_trees.broken(tree) == ["wandb/plot/bar.py, line 3: invalid syntax"]
    assert cli.main(["export-diff", str(tree)]) == 2
    assert "wandb/plot/bar.py, line 3: " in capsys.readouterr().err


def test_old_pythons_get_annotations_that_they_need_not_evaluate(tree):
    (tree / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.8"\n')
    edit(tree / CONFIG, "from __future__ import annotations\n", "")
    edit(tree / CONFIG, "set | None", "'set | None'")
    text = export.change(tree, ["config"]).files[CONFIG]
    assert 'def __getstate__(self) -> "dict[str, object]":' in text
    assert "__future__" not in text


# --- the change log and the text --------------------------------------------


def test_the_line_is_in_its_section(tree):
    put_in(tree, "config", "preinit")
    text = (tree / changelog.FILE).read_text("utf-8")
    sections = re.findall(r"^### (\w+)", text, re.M)
    assert sections == ["Added", "Fixed", "Security"]
    fixed = text.split("### Fixed\n\n")[1].split("\n\n###")[0].splitlines()
    assert [line[:2] for line in fixed] == ["- ", "- "]
    assert fixed[0].endswith("(@USERNAME in https://github.com/wandb/wandb/pull/NUMBER)")


def test_the_folder_of_a_pull_request(tree, tmp_path, capsys):
    template = tree / ".github" / "pull_request_template.md"
    template.parent.mkdir()
    template.write_text(
        "Description\n-----------\n<!--\nhint\n-->\n- Fixes WB-NNNNN\n- Fixes #NNNN\n\n"
        "What does the PR do? Include a description.\n\n"
        "- [ ] I updated CHANGELOG.unreleased.md, or it's not applicable\n\n"
        "Testing\n-------\nHow was this PR tested?\n\n<!--\ntitle\n-->\n"
    )
    out = tmp_path / "out"
    arguments = ["export-pr", str(tree), "--topic", "config", "--out", str(out)]
    assert cli.main(arguments) == 0
    assert "without the numbers of a report" in capsys.readouterr().out
    text = (out / "pull-request.md").read_text("utf-8")
    assert text.startswith("# fix(sdk): make `wandb.Config` copyable and picklable\n")
    for words in (
        *("- Refs #833", "- Refs #2007", "- Refs #3748", "- Refs #5062", "run.config_static"),
        *("- [x] I updated", "RecursionError", "pytest tests/unit_tests", "spared four issues"),
        "- `test_config_pickle_has_no_secrets` fails: `assert b'0123456789' not in`",
    ):
        assert words in text
    for words in ("NNNN", "Fixes", "What does the PR do", "How was this PR tested", "<!--"):
        assert words not in text
    diff = (out / "change.diff").read_text("utf-8")
    assert re.findall(r"^\+\+\+ b/(.+)$", diff, re.M) == [
        CONFIG,
        "tests/unit_tests/test_wandb_config.py",
        changelog.FILE,
    ]
    put_in(tree, "config")
    shutil.rmtree(out)
    assert cli.main(arguments) == 0
    assert "config: not needed" in capsys.readouterr().out
    assert not out.exists()


def test_the_ruff_that_a_tree_pins(tmp_path):
    assert upstream_ruff.ruff_of(tmp_path) == ""
    hooks = "  - repo: https://github.com/astral-sh/ruff-pre-commit\n    rev: {}\n    hooks:\n"
    for rev in ('"v0.12.0"', "v0.12.0", "'0.12.0'"):
        (tmp_path / ".pre-commit-config.yaml").write_text(hooks.format(rev))
        assert upstream_ruff.ruff_of(tmp_path) == "0.12.0"


def test_quoted_annotations():
    source = "class A:\n    x: {}\n\n    def f(self, a: int) -> {}:\n        b: dict[str, int]\n"
    given = source.format("dict[str, int]", "list[int]")
    assert syntax.with_quoted_annotations(given) == source.format('"dict[str, int]"', '"list[int]"')
