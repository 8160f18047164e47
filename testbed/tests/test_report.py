"""The testbed's report: all that was measured is in it, and nothing gets out of it."""

import copy
import html.parser
import json
import re
import sys
import threading

import pytest

from wandb_ddp_patch_testbed import report as reports
from wandb_ddp_patch_testbed.report import files
from wandb_ddp_patch_testbed.report.markdown import escaped

EVIL = '<script>alert("1")</script> | `a` \x1b[31mred\x1b[0m __init__'
PASSES = {"passed": True, "reason": "as it should be", "trace": None, "seconds": 0.5}
FAILS = {"passed": False, "reason": EVIL, "trace": f"line\n```\n{EVIL}\nKeyError", "seconds": 1.25}
HANGS = {"passed": False, "reason": "hangs: no end after 15 s", "trace": "", "seconds": 15}
OTHERWISE = {"passed": False, "reason": "OSError: no room", "otherwise": True}
SKIPPED = {"passed": None, "reason": "torch is not installed", "trace": None, "seconds": 0}


def environment(label, without, with_, **more):
    names = ("config-pickle", "run-rows", "preinit")
    verdicts = {"without": dict(zip(names, without)), "with": dict(zip(names, with_))}
    found = {"label": label, "release": label, "python": "3.11", "notes": [], "error": None}
    return {**found, "verdicts": verdicts, **more}


@pytest.fixture
def report():
    return {
        "schema": 1,
        "created": "2026-11-23T14:00:00+00:00",
        "wandb_ddp_patch": "0.1.0",
        "system": "Linux",
        "cores": 2,
        "sides": ["without", "with"],
        "probes": [
            {"name": "config-pickle", "what": "A config <comes> back.", "issues": [2007, 833]},
            {"name": "run-rows", "what": "All rows | arrive.", "issues": []},
            {"name": "preinit", "what": "wandb.config is sent.", "issues": []},
        ],
        "environments": [
            environment("0.10.23", [FAILS, HANGS, SKIPPED], [PASSES, PASSES, SKIPPED]),
            environment("0.11.2", [], [], verdicts={}, error="Python 3.11 can't: <b>|\nno"),
            environment("0.30.0", [PASSES, FAILS], [PASSES]),  # interrupted
            environment("tree", [HANGS] * 3, [FAILS, HANGS, PASSES], notes=["<i>its core|stays"]),
        ],
    }


class Page(html.parser.HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag, **attributes):
        return [
            found
            for name, found in self.tags
            if name == tag and attributes.items() <= found.items()
        ]


def tables(markdown):
    """Split Markdown into its tables, each a list of rows, each a list of cells."""
    found = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    return [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table.splitlines()]
        for table in found
    ]


def test_page_escapes_what_programs_say(report):
    source = reports.html(report)
    page = Page(source)
    assert len(page.all("script")) == 1  # its own
    assert not page.all("comes") and source.count("&lt;script&gt;alert") >= 4
    assert "<i>its" not in source and "&lt;i&gt;its core|stays" in source
    assert "\x1b" not in source and "[31m" not in source
    for attributes in (found for _, found in page.tags):
        assert not [name for name in attributes if name.startswith("on")]


def test_page_fetches_nothing(report):
    source = reports.html(report)
    page = Page(source)
    for tag in ("link", "img", "iframe", "object", "base", "form", "audio", "video"):
        assert not page.all(tag)
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "poster", "data", "action"} & attributes.keys()
        if "href" in attributes:
            assert tag == "a"
            assert re.match(r"#|https://github\.com/wandb/wandb/issues/\d+$", attributes["href"])
    assert "url(" not in source and "@import" not in source and "fetch(" not in source
    assert "default-src 'none'" in source


def test_page_has_each_cell_and_each_opens_its_own_words(report):
    source = reports.html(report)
    page = Page(source)
    assert len(page.all("th", scope="row")) == 4
    assert len(page.all("th", scope="col")) == 1 + 3
    cells = [cell for cell in page.all("button", type="button") if "aria-label" in cell]
    assert len(cells) == 3 * 3  # one of four environments can't be run
    popovers = {found["id"] for found in page.all("div") if "popover" in found}
    assert [cell["popovertarget"] for cell in cells] == sorted(popovers)
    assert cells[0]["aria-label"] == (
        "0.10.23, Python 3.11, config-pickle: without the patch: fails; with the patch: passes"
    )
    assert cells[5]["aria-label"].endswith(
        "without the patch: no verdict; with the patch: no verdict"
    )
    opened = source.split('id="cell-1-2"')[1].split("<div popover")[0]
    assert "All rows | arrive." in opened
    assert "without the patch: hangs" in opened and "hangs: no end after 15 s" in opened
    assert "with the patch: passes" in opened and "<small>0.5 s</small>" in opened
    assert "Python 3.11 can&#39;t: &lt;b&gt;| no" in source
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    for _, found in page.tags:  # whatever is pointed at is there
        for name in ("popovertarget", "aria-labelledby"):
            assert name not in found or found[name] in ids
        assert not found.get("href", "").startswith("#") or found["href"][1:] in ids


def test_what_fails_for_another_reason_is_no_failure_like_others(report):
    report["environments"][0]["verdicts"]["without"]["config-pickle"] = OTHERWISE
    assert "0.10.23 ?✓ H✓ ––\n" in reports.text(report)  # noqa: RUF001
    source = reports.markdown(report)
    assert "0 of 2 (1 fail for another reason, 1 can't be run: torch is not installed)" in source
    assert "? fails for another reason than the probe's" in source
    source = reports.html(report)
    assert "without the patch: fails for another reason than the probe&#39;s; with" in source
    assert "4 hang, 1 fail for another reason, 1 can" in source


def test_why_probes_cannot_be_run_is_counted(report):
    report["environments"][3]["verdicts"]["without"] = {
        "config-pickle": {**SKIPPED, "reason": "this platform\nhas no fork"},
        "preinit": SKIPPED,
    }
    words = "3 can't be run: torch is not installed (2), this platform has no fork (1)"
    assert words in " ".join(reports.summary(report))


def test_page_marks_what_differs(report):
    source = reports.html(report)
    page = Page(source)
    assert source.count(">\u203a</i>") == 5  # in a cell, where a side is not as the one before it
    heads = [found["class"] for found in page.all("th", scope="col") if "class" in found]
    assert heads == ["differs", "differs", "same"]
    for one in report["environments"]:
        if not one["error"]:
            one["verdicts"]["without"]["config-pickle"] = FAILS
            one["verdicts"]["with"]["config-pickle"] = PASSES
    source = reports.html(report)
    heads = [found["class"] for found in Page(source).all("th", scope="col") if "class" in found]
    assert heads == ["same", "differs", "same"]
    assert "Only probes for which the environments differ: 1 of 3" in source
    assert "| wandb | Python | 1 | 2 ≠ | 3 |" in reports.markdown(report)
    report["environments"] = report["environments"][:1]  # there is nothing that could differ
    assert "≠" not in reports.html(report) + reports.markdown(report)


def test_page_and_markdown_say_how_to_find_the_same_again(report):
    report["command"] = "wandb-ddp-patch testbed '../my wandb' --python 3.11"
    report["environments"][3].update(spec="../my wandb", commit="0123456789abcdef", changed=True)
    source = html.unescape(reports.html(report))
    assert f"<pre>{report['command']}</pre>" in source
    one = "wandb-ddp-patch testbed '../my wandb' --python 3.11 --only"
    assert [name for name in ("config-pickle", "run-rows", "preinit") if f"{one} {name}<" in source]
    assert source.count("commit 0123456789, changed") == 2
    source = reports.markdown(report)
    assert f"```sh\n{report['command']}\n```" in source
    assert "- commit 0123456789, changed\n- \\<i\\>its core\\|stays" in source


def test_notes_are_a_list(report):
    report["environments"][3]["notes"].append("The second.")
    source = reports.html(report)
    assert "<li>&lt;i&gt;its core|stays</li>\n<li>The second.</li>" in source
    assert "\n- \\<i\\>its core\\|stays\n- The second." in reports.markdown(report)


def test_page_sums_up(report):
    words = " ".join(" ".join(Page(reports.html(report)).text).split())
    assert (
        "1 of 7 cells pass without the patch"
        " 4 hang, 1 can't be run: torch is not installed, 1 without a verdict"
    ) in words
    assert (
        "4 of 6 cells pass with the patch"
        " 1 hang, 1 can't be run: torch is not installed, 2 without a verdict"
    ) in words
    assert "1 environment could not be run." in words
    assert "4 environments and 3 probes" in words and "2026-11-23 14:00 UTC" in words


def test_markdown_tables_are_well_formed(report):
    found = tables(reports.markdown(report))
    assert [len(table) for table in found] == [2 + 4, 2 + 4]
    for table in found:
        assert {len(row) for row in table} == {len(table[0])}
    first, second = found
    why = "(1 can't be run: torch is not installed)"
    assert first[2] == ["0.10.23", "3.11", f"0 of 2 {why}", f"2 of 2 {why}"]
    assert first[3][2:] == ["Python 3.11 can't: \\<b\\>\\| no", ""]
    assert first[5][3] == "1 of 3: `config-pickle` fails, `run-rows` hangs"
    assert [row[2:] for row in second[2:]] == [
        ["✗✓", "H✓", "––"],  # noqa: RUF001
        ["", "", ""],
        ["✓✓", "✗·", "··"],
        ["H✗", "HH", "H✓"],
    ]


def test_markdown_says_what_fails_with_the_patch_and_not_what_fails_without(report):
    source = reports.markdown(report)
    failures = source.split("## What fails all the same")[1]
    titles = re.findall("^### .*", failures, re.MULTILINE)
    assert titles == [
        "### tree, Python 3.11, `config-pickle`, with the patch",
        "### tree, Python 3.11, `run-rows`, with the patch",
    ]
    # The trace has a fence of three; what is around it has four.
    assert "\n````text\n" in failures and "\n```\n" in failures and "\n````\n" in failures
    assert "\x1b" not in source
    assert "[2007](https://github.com/wandb/wandb/issues/2007)" in source


def test_markdown_for_a_readme_is_a_sentence_and_a_table(report):
    source = reports.markdown(report, details=False)
    assert source.startswith("On 2026-11-23, wandb_ddp_patch 0.1.0, Linux, 2 cores. 4 environments")
    assert len(tables(source)) == 1 and "#" not in source
    assert len(source.splitlines()) == 2 + 2 + 4


def test_markdown_leaves_no_character_that_markup_begins_with():
    assert escaped("__init__ a_b *x* <y>\n[z]") == (r"\_\_init\_\_ a_b \*x\* \<y\> \[z\]")


def test_text(report):
    lines = reports.text(report).splitlines()
    assert lines[:5] == [
        "         1  2  3",
        "0.10.23 ✗✓ H✓ ––",  # noqa: RUF001
        "0.11.2  Python 3.11 can't: <b>| no",
        "0.30.0  ✓✓ ✗· ··",
        "tree    H✗ HH H✓",
    ]
    assert "tree: <i>its core|stays" in lines
    assert "tree, run-rows, with the patch: hangs: no end after 15 s" in lines
    assert not [line for line in lines if "0.10.23, config-pickle" in line]
    assert any(" 1 config-pickle" in line for line in lines)
    assert "\x1b" not in "".join(lines)
    plain = reports.text(report, "cp1252")
    plain.encode("cp1252")
    assert plain.splitlines()[1] == "0.10.23 x+ H+ --"


def test_a_third_side_is_shown_everywhere(report):
    report["sides"].append("export")
    report["environments"][0]["verdicts"]["export"] = {"preinit": FAILS}
    assert "0.10.23 ✗✓· H✓· ––✗\n" in reports.text(report)  # noqa: RUF001
    assert "`preinit`, with the exported diff, the patch off" in reports.markdown(report)
    assert "with the exported diff, the patch off: fails" in reports.html(report)


def test_files_hold_the_report_and_nothing_is_left_beside_them(report, tmp_path):
    report["environments"][0]["notes"] = ["half a pair: \udc80"]
    before = copy.deepcopy(report)
    folder = tmp_path / "a" / "b"
    for _ in range(2):  # the second time over the first
        paths = reports.write(report, folder)
    assert [path.name for path in paths] == ["report.md", "report.json", "index.html"]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert json.loads((folder / "report.json").read_text("utf-8")) == before == report
    assert (folder / "index.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_verdicts_that_come_while_it_is_written_wait_for_the_next_time(
    report, tmp_path, monkeypatch
):
    markdown = reports.markdown

    def slow(*arguments):
        report["environments"][2]["verdicts"]["with"]["run-rows"] = FAILS
        report["environments"][2]["verdicts"]["export"] = {}
        return markdown(*arguments)

    before = copy.deepcopy(report)
    monkeypatch.setattr(files, "markdown", slow)
    reports.write(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == before
    assert (tmp_path / "report.md").read_text("utf-8") == markdown(before)
    assert (tmp_path / "index.html").read_text("utf-8") == reports.html(before)


def test_a_file_that_cannot_be_replaced_is_left_alone(report, tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OSError):
        reports.write(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]


def measure(live):
    """Give the verdicts, as the testbed does, from two threads."""

    def one_side(side):
        for name in ("config-pickle", "run-rows"):
            passed = side == "with" or name == "config-pickle"
            reason = "as it should be" if passed else "hangs: no end after 15 s"
            live.verdict("0.31.0", side, name, {"passed": passed, "reason": reason})

    threads = [threading.Thread(target=one_side, args=(side,)) for side in ("without", "with")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = {"passed": True, "reason": "as before"}
    live.verdict("0.31.0", "with", "run-rows", again)  # is no news
    live.error("0.10.5", "Python 3.11 can't run it")
    failed = {"passed": False, "reason": "AssertionError: 3 rows"}
    live.verdict("0.30.0", "with", "run-rows", failed)


def test_live_prints_a_line_for_each_finished_environment(capsys):
    labels = ["0.10.5", "0.30.0", "0.31.0"]
    with reports.Live(labels, ["without", "with"], ["config-pickle", "run-rows"]) as live:
        measure(live)
    assert not live.terminal
    assert capsys.readouterr().out.splitlines() == [
        "0.31.0: 1 of 2 without the patch, 2 of 2 with the patch",
        "0.10.5: Python 3.11 can't run it",
    ]


@pytest.mark.parametrize("lines", ["40", "6"])
def test_live_leaves_the_whole_matrix_in_a_terminal(capsys, monkeypatch, lines):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": lines}.items():
        monkeypatch.setenv(name, value)
    labels = ["0.10.5", "0.30.0", "0.31.0"]
    with reports.Live(labels, ["without", "with"], ["config-pickle", "run-rows"]) as live:
        measure(live)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    last = [line.rstrip() for line in shown[shown.rindex("        1  2") :].splitlines()]
    assert [line for line in last if line.startswith("0.")] == [
        "0.10.5 Python 3.11 can't run it",
        "0.30.0 ·· ·✗",
        "0.31.0 ✓✓ H✓",
        "0.30.0, run-rows, with the patch: AssertionError: 3 rows",
    ]
    assert "9/12" in shown  # four of an error, four, and one
    assert " 1 config-pickle" in shown
