"""What PyPI gets: metadata, pages without relative links, and sdists from which tests run."""

import email
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pages
import pytest
from conftest import ROOT
from scripts import run_script
from test_packaging import dists, environment, testbed_dists, with_wandb  # noqa: F401

import wandb_ddp_patch


def metadata(wheel):
    with zipfile.ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(file.read(name))


def urls(metadata):
    return dict(url.split(", ", 1) for url in metadata.get_all("Project-URL"))


def links(text):
    prose = re.sub("`[^`]+`", "", pages.split(text)[0])
    return re.findall(
        r"""(?:\]\(|^\[[^\]]+\]: |(?:href|src|srcset)=["'])([^)\s"']+)""", prose, re.M
    )


def test_their_pages_and_links_are_absolute(dists, testbed_dists):  # noqa: F811
    setup = runpy.run_path(str(ROOT / "setup.py"))  # as GITHUB_REPOSITORY says, where it is set
    found = [metadata(each["wheel"]) for each in (dists, testbed_dists)]
    for one in found:
        assert urls(one) == setup["PROJECT_URLS"]
        assert set(urls(one)) == {"Changelog", "Documentation", "Issues", "Source"}
        of_page = links(one.get_payload())
        assert of_page
        assert [link for link in of_page if not link.startswith("https://")] == []
        assert one["License"] == "MIT"
        assert one.get_all("License-File") == ["LICENSE"]
    for line in ("Programming Language ::", "Operating System ::"):
        first, other = ([c for c in m.get_all("Classifier") if c.startswith(line)] for m in found)
        assert first == other
        assert first


def test_links_of_a_page_become_absolute(tmp_path, monkeypatch):
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "README.md").touch()
    for folder in ("wandb_ddp_patch", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "wandb_ddp_patch" / "__init__.py").write_text('__version__ = "1.2"\n')
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    setup = runpy.run_path(str(tmp_path / "setup.py"))
    repository = "https://github.com/owner/name"
    assert setup["PROJECT_URLS"]["Source"] == repository
    monkeypatch.delenv("GITHUB_REPOSITORY")
    assert runpy.run_path(str(tmp_path / "setup.py"))["REPOSITORY"] != repository
    # Somebody else's runner installs our sdist.
    monkeypatch.setenv("GITHUB_REPOSITORY", "another/name")
    (tmp_path / "PKG-INFO").write_text(f"Project-URL: Source, {repository}\n")
    assert runpy.run_path(str(tmp_path / "setup.py"))["REPOSITORY"] == repository
    blob, raw = f"{repository}/blob/v1.2", f"{repository}/raw/v1.2"
    for written, absolute in {
        "[a](b.md)": f"[a]({blob}/docs/b.md)",
        "[a](../b.md#c) [d](e/)": f"[a]({blob}/b.md#c) [d]({blob}/docs/e)",
        "[a](#b)": f"[a]({blob}/docs/page.md#b)",
        "![a](b.png)": f"![a]({raw}/docs/b.png)",
        "[![a](b.svg)](c.md)": f"[![a]({raw}/docs/b.svg)]({blob}/docs/c.md)",
        '<img src="b.png">': f'<img src="{raw}/docs/b.png">',
        "[a]\n\n[a]: b.md": f"[a]\n\n[a]: {blob}/docs/b.md",
    }.items():
        (tmp_path / "docs" / "page.md").write_text(f"# A\n\n{written}\n", "utf-8")
        assert setup["description"]("docs/page.md") == f"# A\n\n{absolute}\n"
    for kept in ("[a](https://b.org/c)", "[a](mailto:b@c.org)", "`a[b](c)`", "```py\na[b](c)\n```"):
        (tmp_path / "docs" / "page.md").write_text(f"{kept}\n", "utf-8")
        assert setup["description"]("docs/page.md") == f"{kept}\n"


def test_twine_accepts_them(environment, dists, testbed_dists):  # noqa: F811
    files = [*dists.values(), *testbed_dists.values()]
    env = environment("twine")
    done = env.attempt("-m", "twine", "--no-color", "check", "--strict", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == len(files)


def unpacked(sdist, folder):
    with tarfile.open(sdist) as file:
        file.extractall(folder)
    (root,) = folder.iterdir()
    return root


def test_the_sdist_has_all_of_the_repository(dists, tmp_path):  # noqa: F811
    if not (ROOT / ".git").exists():
        pytest.skip("what is in the repository is known to git only")

    def listed(*options):
        git = ["git", "-C", str(ROOT), "ls-files", "-z", *options]
        names = subprocess.run(git, stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout
        return {name for name in names.split("\0") if name and (ROOT / name).is_file()}

    root = unpacked(dists["sdist"], tmp_path)
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    built = {name for name in found if name.startswith("wandb_ddp_patch.egg-info/")}
    built |= {"PKG-INFO", "setup.cfg"}
    assert listed() - found == set()
    assert found - built - listed("--cached", "--others", "--exclude-standard") == set()


def test_tests_run_from_the_sdist(dists, tmp_path):  # noqa: F811
    root = unpacked(dists["sdist"], tmp_path)
    ask = "import wandb_ddp_patch_testbed as t, wandb_ddp_patch as p; print(p.__file__, t.__file__)"
    env = {"PYTHONPATH": f"{root}{':' if sys.platform != 'win32' else ';'}{root / 'testbed'}"}
    for file in run_script("-c", ask, cwd=root, env=env).stdout.split():
        assert file.startswith(str(root))
    picture = "tests/repository/test_pages.py::test_the_picture_of_the_house_is_true"
    tests = ["tests/unit/test_records.py", "testbed/tests/test_report.py", picture]
    pytest_options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = run_script("-m", "pytest", *pytest_options, *tests, cwd=root, env=env)
    assert re.search(r"^\d+ passed", done.stdout, re.M), done.stdout


def test_the_version_is_that_of_the_distributions(dists, testbed_dists):  # noqa: F811
    for each in (dists, testbed_dists):
        assert metadata(each["wheel"])["Version"] == wandb_ddp_patch.__version__
        assert f"-{wandb_ddp_patch.__version__}.tar.gz" in each["sdist"].name


@pytest.mark.skipif(sys.platform == "win32", reason="it is a script for another shell")
def test_a_release_has_its_own_tag_and_a_date(tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for name in (".ci", "wandb_ddp_patch"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / ".ci" / "release-check", tmp_path / ".ci")
    (tmp_path / "wandb_ddp_patch" / "__init__.py").write_text('__version__ = "1.2"\n')

    def refused(tag, heading):
        (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n")
        subprocess.run([*git, "add", "--all"], check=True)
        subprocess.run([*git, "commit", "-qm", "c"], check=True)
        script = [str(tmp_path / ".ci" / "release-check"), tag]
        env = {**os.environ, "PYTHON": "false"}  # where it would begin to build
        done = subprocess.run(script, env=env, capture_output=True, encoding="utf-8")
        assert done.returncode == 1
        return done.stderr

    subprocess.run([*git, "init", "-q"], check=True)
    assert "the tag is v1.3, but the version is 1.2" in refused("v1.3", "1.2 (2026-12-01)")
    assert "CHANGELOG.md has no heading" in refused("v1.2", "1.2 (unreleased)")
    assert "CHANGELOG.md has no heading" in refused("v1.2", "102 (2026-12-01)")
    assert refused("v1.2", "1.2 (2026-12-02)") == ""
