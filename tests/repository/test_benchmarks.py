"""The benchmarks' own figures: what decides, what agrees, and that the pages show it.

Nothing is timed here: "make bench" is for that.
"""

import json
import re
import shutil
import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import agree
import harness
import memory
import run_all

COSTS = ROOT / "docs" / "costs.md"


def test_the_page_shows_the_committed_results():
    table = run_all.table(run_all.QUESTIONS, quick=False)
    assert "no result" not in table
    for file in (COSTS, ROOT / "benchmarks" / "results" / "README.md"):
        assert table in file.read_text("utf-8"), "make bench writes it"


def test_readme_gives_figures_of_that_table():
    readme = (ROOT / "README.md").read_text("utf-8")
    figures = re.findall(r"\*\*(\d.*?)\*\*", readme.split("## What it costs")[1])
    assert len(figures) == 4
    for figure in figures:
        assert re.search(rf"[| ]{re.escape(figure)}[ ,]", COSTS.read_text("utf-8")), figure


def test_every_plot_is_on_the_page():
    shown = re.findall(r"!\[.*?\]\((.*?)\)", COSTS.read_text("utf-8"))
    plots = (ROOT / "benchmarks" / "results").glob("*.png")
    assert sorted((COSTS.parent / plot).resolve() for plot in shown) == sorted(plots)
    assert all((COSTS.parent / plot).with_suffix(".svg").is_file() for plot in shown)


@pytest.mark.parametrize(
    ("value", "interval", "state"),
    [
        (1.01, None, "met"),
        (1.02, None, "met"),
        (1.03, None, "missed"),
        (1.01, [0.9, 1.2], "met"),
        (1.03, [0.9, 1.2], "undecided"),
        (1.03, [1.025, 1.04], "missed"),
    ],
)
def test_a_goal(value, interval, state):
    assert harness.goal("x", value, 1.02, interval=interval)["state"] == state


def test_the_interval_of_a_median():
    low, high = harness.interval([1.0] * 20 + [5.0])
    assert low == high == 1
    low, high = harness.interval(list(range(101)))
    assert 30 < low < 50 < high < 70
    assert harness.interval([1.0, 2.0]) is None


def test_one_round_decides_only_what_is_plain():
    arms = {"a": [1.0], "b": [1.9], "c": [2.1]}
    found = agree.outcomes(harness.summary(arms, "a"))
    assert [ended for _, (ended, _) in found] == ["even", "even", "lost"]


def test_arms_take_turns():
    seen = []
    arms = {name: lambda name=name: seen.append(name) or 0.5 for name in "abc"}
    times = harness.interleave(arms, {"a": 3, "b": 3, "c": 1}, warm_up=1)
    assert times == {"a": [0.5] * 3, "b": [0.5] * 3, "c": [0.5]}
    # One of each in a warm-up round, then in the first round, then of those with more.
    assert [sorted(seen[at : at + 3]) for at in (0, 3)] == [["a", "b", "c"]] * 2
    assert [sorted(seen[at : at + 2]) for at in (6, 8)] == [["a", "b"]] * 2


@pytest.mark.skipif(not memory.ROLLUP.exists(), reason="Linux counts so")
def test_memory_that_is_written_to_is_private():
    before = memory.memory()
    kept = bytearray(b"x") * 50_000_000
    after = memory.memory()
    assert 45e6 <= after["private"] - before["private"] < 60e6
    assert abs(after["shared"] - before["shared"]) < 5e6
    assert len(kept) == 50_000_000


def test_where_memory_is_not_counted_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "ROLLUP", tmp_path / "none")
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["memory.py"])
    memory.main()
    assert capsys.readouterr().out.splitlines()[0] == (
        f"skipped: this system has no {tmp_path / 'none'}, which says what memory is private"
    )
    assert harness.load("memory")["goals"] == []


@pytest.fixture
def ask(run_script):
    return lambda *folders: run_script(agree.__file__, *folders, returncode=None)


def test_two_runs_agree_or_not(ask, tmp_path):
    results = ROOT / "benchmarks" / "results"
    assert ask(results, results).returncode == 0
    for file in results.glob("*.json"):
        shutil.copy(file, tmp_path)
    file = tmp_path / "config_reads.json"
    result = json.loads(file.read_text("utf-8"))
    arm = result["reads"]["config.lr"]["OmegaConf"]
    assert arm["of wandb.config, wandb alone, 95 %"][0] > 1
    arm["of wandb.config, wandb alone"] = 0.5
    arm["of wandb.config, wandb alone, 95 %"] = [0.4, 0.6]
    file.write_text(json.dumps(result), "utf-8")
    done = ask(results, tmp_path)
    assert done.returncode == 1
    assert "1 opposite" in done.stdout and "config.lr, OmegaConf" in done.stdout


def test_a_folder_without_results(ask, tmp_path):
    done = ask(tmp_path, tmp_path)
    assert done.returncode == 1 and done.stderr == f"{tmp_path} holds no results\n"
