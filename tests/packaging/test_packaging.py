"""Real distributions in real environments: the start-up files, what they do, and what they leave.

Nothing here puts this package into a path: what works, works because it is installed.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pages
import pytest
from conftest import ROOT, clean_env
from limits import WAIT_SECONDS
from scripts import run_script

import wandb_ddp_patch
from wandb_ddp_patch_testbed import environments

FILES = {"wandb_ddp_patch.pth", "wandb_ddp_patch_startup.py"}
# All that the repository has; test_distributions.py would miss what is not here.
NEEDED = (".ci", ".github", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")
NEEDED += ("MANIFEST.in", "Makefile", "README.md", "SECURITY.md", "benchmarks", "conftest.py")
NEEDED += ("docs", "examples", "findings", "pyproject.toml", "setup.py", "startup", "testbed")
NEEDED += ("tests", "wandb_ddp_patch")

# The reported script, which knows nothing of us.
SCRIPT = """
import argparse
import multiprocessing as mp
import wandb

def train(rank, args):
    print(rank, args.config.lr)

if __name__ == "__main__":
    wandb.init(project="w2v_did", config={"lr": 0.1})
    args = argparse.Namespace(config=wandb.config)
    process = mp.get_context("spawn").Process(target=train, args=(0, args))
    process.start()
    process.join()
    assert process.exitcode == 0
"""
# Another interpreter than this one: the nightly run asks for some.
TEST_PYTHON = os.environ.get("TEST_PYTHON")
# What only a patched wandb can do, in a line.
COPY = "import copy, wandb; copy.copy(wandb.Config()); print('patched')"


class Environment:
    """A virtual environment, and what happens in it: a new one, or a copy of another."""

    def __init__(self, folder, *packages, python=None, of=None):
        self.folder = folder
        self.python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
        if of is None:
            self._make(python or TEST_PYTHON)
        else:
            shutil.copytree(of, folder, symlinks=True, copy_function=link)
        self.install(*packages)
        self.site = Path(self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))

    def _make(self, python):
        try:
            python = environments.find_python(python) if python else sys.executable
        except environments.NoPython as error:
            pytest.skip(str(error))
        environments.run_uv("venv", "--python", python, str(self.folder))

    def install(self, *packages):
        if packages:
            environments.run_uv("pip", "install", "--python", self.python, *map(str, packages))

    def run(self, *arguments, says=None, before=(), cwd=None, **env):
        """Run its interpreter, which must end well and say nothing on stderr."""
        done = self.attempt(*arguments, before=before, cwd=cwd, **env)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        if says is not None:
            assert done.stdout.strip() == says
        return done.stdout.strip()

    def attempt(self, *arguments, before=(), cwd=None, **env):
        return run_script(
            *arguments,
            python=self.python,
            before=before,
            cwd=cwd or self.folder,
            env={"PYTHONPATH": None, **env},
            returncode=None,
        )

    def files(self):
        """What is installed, but for what Python and the installers cache."""
        return {
            path.relative_to(self.folder)
            for path in self.folder.rglob("*")
            if "__pycache__" not in path.parts and path.name != ".lock"
        }


def link(source, target):
    try:
        os.link(source, target)
    except OSError:  # this file system has no links
        shutil.copy2(source, target)


def rewrite(path, text):
    # uv, and we, link files to those of other environments.
    path.unlink()
    path.write_text(text)


def copy_of_the_source(folder):
    # Builds write into the source tree, and several tests build at once.
    for name in NEEDED:
        if (ROOT / name).is_dir():
            # What an editable install leaves there tells a build what files there were then.
            left = shutil.ignore_patterns("*.egg-info", "build", "dist", "__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=left)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def dists(tmp_path_factory):
    """A wheel and an sdist, built once for all the processes of a test run."""
    return build(tmp_path_factory, "dists", ".")


@pytest.fixture(scope="session")
def testbed_dists(tmp_path_factory):
    """Those of the testbed; its wheel is built from its sdist, which lies alone."""
    return build(tmp_path_factory, "testbed-dists", "testbed")


def shared(tmp_path_factory, name):
    """A folder of all the processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name


def build(tmp_path_factory, name, part):
    folder = shared(tmp_path_factory, name)
    with environments.locked(folder.with_suffix(".lock")):
        if not folder.exists():
            source = folder.with_name(f"source-of-{name}")
            source.mkdir()
            copy_of_the_source(source)
            environments.run_uv("build", "--out-dir", str(folder), str(source / part))
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


@pytest.fixture(scope="session")
def with_wandb(tmp_path_factory):
    """An environment with wandb, to be copied: to compile wandb takes longer than all the rest."""

    def get(*more):
        folder = shared(tmp_path_factory, "-".join(["with-wandb", *more]))
        with environments.locked(folder.with_suffix(".lock")):
            if not folder.with_suffix(".ready").exists():
                shutil.rmtree(folder, ignore_errors=True)
                packages = more or [f"wandb=={newest()}"]
                env = Environment(folder, *packages, of=get() if more else None)
                env.run("-m", "compileall", "-q", env.site)
                folder.with_suffix(".ready").touch()
        return folder

    return get


@pytest.fixture
def environment(tmp_path, with_wandb):
    def make(*packages, wandb=False, pip=False, **options):
        of = with_wandb(*(["pip"] if pip else [])) if wandb else None
        return Environment(tmp_path / "environment", *packages, of=of, **options)

    return make


@pytest.fixture(scope="module")
def installed(dists, with_wandb, tmp_path_factory):
    """An environment with our wheel and wandb, which no test changes."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    return Environment(folder, dists["wheel"], of=with_wandb())


def newest():
    import wandb

    return wandb.__version__


# --- what is in them --------------------------------------------------------


def test_wheel_and_sdist_hold_the_start_up_files(dists):
    with zipfile.ZipFile(dists["wheel"]) as wheel:
        names = {Path(name).name for name in wheel.namelist()}
        record = wheel.read(next(n for n in wheel.namelist() if n.endswith("/RECORD"))).decode()
        pth = [name for name in wheel.namelist() if name.endswith(".pth")]
    assert names >= FILES
    assert {Path(line.split(",")[0]).name for line in record.splitlines()} >= FILES
    assert "wandb_ddp_patch/py.typed," in record
    assert len(pth) == 1
    with tarfile.open(dists["sdist"]) as sdist:
        assert {Path(name).name for name in sdist.getnames()} >= FILES | {"setup.py", "README.md"}


def test_the_wheel_holds_nothing_but_the_package(dists):
    with zipfile.ZipFile(dists["wheel"]) as wheel:
        names = wheel.namelist()
        metadata = wheel.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    folders = {name.partition("/")[0] for name in names}
    version = wandb_ddp_patch.__version__
    assert folders == {"wandb_ddp_patch", f"wandb_ddp_patch-{version}.dist-info", *FILES}
    assert "testbed" not in "".join(metadata.partition("\n\n")[0])


def test_the_testbeds_wheel_holds_its_data_and_wants_this_version(testbed_dists):
    with zipfile.ZipFile(testbed_dists["wheel"]) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    source = ROOT / "testbed" / "wandb_ddp_patch_testbed"
    files = [path for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {path.relative_to(source.parent).as_posix() for path in files} == {
        name for name in names if ".dist-info/" not in name
    }
    version = wandb_ddp_patch.__version__
    assert f"\nVersion: {version}\n" in metadata
    assert f"\nRequires-Dist: wandb-ddp-patch=={version}\n" in metadata
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "testbed" / "LICENSE").read_bytes()


def command(env, *arguments):
    return env.attempt(Path(env.python).with_name("wandb-ddp-patch"), *arguments)


@pytest.mark.parametrize("python", [TEST_PYTHON] if TEST_PYTHON else ["3.8", "3.11"])
def test_the_testbed_is_found_where_it_is_installed_and_else_named(
    environment, dists, testbed_dists, python
):
    env = environment("--no-deps", dists["wheel"], python=python)
    for name in ("testbed", "export-diff", "export-pr", "add-line"):
        for arguments in ([], ["--help"], ["0.31.0", "--since"], ["--", "x"]):
            done = command(env, name, *arguments)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr == (
                f"wandb-ddp-patch: {name}: wandb-ddp-patch-testbed is not installed: "
                "pip install ./testbed in this package's source folder\n"
            )
    assert "testbed" in command(env, "--help").stdout
    env.install("--no-deps", testbed_dists["wheel"])
    for name in ("testbed", "export-diff", "export-pr", "add-line"):
        done = command(env, name, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: wandb-ddp-patch {name} [-h]")
    assert "not installed" not in command(env, "--help").stdout
    rewrite(env.site / "wandb_ddp_patch_testbed" / "cli.py", "raise OSError('one\\ntwo')")
    done = command(env, "testbed", "--help")
    assert (done.returncode, done.stderr) == (
        2,
        "wandb-ddp-patch: testbed: wandb_ddp_patch_testbed.cli:add_testbed can't be imported:"
        " OSError: one two\n",
    )
    assert command(env, "doctor", "--help").returncode == 0


def test_one_line_installs_both_from_a_clone(environment, tmp_path):
    env = environment("pip")
    (tmp_path / "clone").mkdir()
    clone = copy_of_the_source(tmp_path / "clone")
    pip = ["-m", "pip", "--disable-pip-version-check", "-q", "install"]
    quick = {"PIP_NO_COMPILE": "1"}  # to compile what they need takes longer than all the rest
    done = env.attempt(*pip, ".", "./testbed", cwd=clone, **quick)
    assert done.returncode == 0, done.stderr
    done = command(env, "testbed", "no such thing")
    assert done.returncode == 2
    assert "a SPEC is" in done.stderr  # all that it needs is there, or this were another error
    both = ["--editable", ".", "--editable", "./testbed"]
    done = env.attempt(*pip, *both, cwd=clone, **quick)
    assert done.returncode == 0, done.stderr
    assert command(env, "export-pr", "--help").returncode == 0


def test_the_pth_file_is_one_ascii_line_that_python_runs():
    data = (ROOT / "startup" / "wandb_ddp_patch.pth").read_bytes()
    assert data.isascii()
    assert data.startswith(b"import ")
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")


def test_the_start_up_module_can_be_installed_twice(fresh):
    startup = str(ROOT / "startup")
    code = f"""
        import sys
        sys.path.append({startup!r})
        import wandb_ddp_patch_startup
        wandb_ddp_patch_startup.install()
        print(sum("wandb_ddp_patch_startup" in repr(f) for f in sys.meta_path))
        {COPY}
        wandb_ddp_patch_startup.install()
        kinds = [(type(f).__module__, getattr(f, "__name__", "")) for f in sys.meta_path]
        print(sum("wandb_ddp_patch" in kind or "wandb_ddp_patch_startup" in kind for kind in kinds))
    """
    path = os.pathsep.join([startup, str(ROOT)])
    assert fresh(code, PYTHONPATH=path) == "1\npatched\n1\n"


# --- each way of installing -------------------------------------------------


def test_without_us_the_script_fails(environment, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    assert "RecursionError" in environment(wandb=True).attempt(tmp_path / "train.py").stderr


WAYS = [(tool, way) for tool in ("pip", "uv") for way in ("wheel", "sdist", "folder", "editable")]


@pytest.mark.parametrize(("tool", "way"), WAYS)
def test_an_unchanged_script_works_and_uninstalling_leaves_nothing(
    environment, dists, tmp_path, tool, way
):
    env = environment(wandb=True, pip=tool == "pip")
    (tmp_path / "train.py").write_text(SCRIPT)
    before = env.files()
    if way in dists:
        what = [str(dists[way])]
    else:
        (tmp_path / "source").mkdir()
        what = [str(copy_of_the_source(tmp_path / "source"))]
        what = ["--editable", *what] if way == "editable" else what
    pip = ["-m", "pip", "--disable-pip-version-check", "-q"]
    for _ in range(2 if way == "editable" else 1):  # twice: no second copy of the files
        if tool == "pip":
            # setuptools warns of editable installs, pip warns root: not ours. Where pip builds,
            # it would compile a whole setuptools for each build.
            how = {} if way == "wheel" else {"PIP_NO_COMPILE": "1"}
            assert env.attempt(*pip, "install", *what, **how).returncode == 0
        else:
            env.install(*what)
    assert {
        path.name
        for path in env.site.glob("wandb_ddp_patch[._]?*")
        if not path.name.endswith("-info")
    } == FILES
    assert env.run(tmp_path / "train.py") == "0 0.1"
    if tool == "pip":
        assert env.attempt(*pip, "uninstall", "-y", "wandb-ddp-patch").returncode == 0
    else:
        environments.run_uv("pip", "uninstall", "--python", env.python, "wandb-ddp-patch")
    left = {path for path in env.files() - before if path.parts[0] != "wandb"}  # the runs
    assert not left
    assert "RecursionError" in env.attempt(tmp_path / "train.py").stderr


# --- each way of running ----------------------------------------------------


def test_every_interpreter_is_patched(installed, tmp_path):
    installed.run("-c", COPY, says="patched")
    (tmp_path / "module.py").write_text(COPY)
    installed.run("-m", "module", says="patched", cwd=tmp_path)
    installed.run("-I", "-c", COPY, says="patched")
    installed.run("-E", "-c", COPY, says="patched")
    installed.run("-c", COPY, says="patched", WANDB_DDP_PATCH="1")
    # A launcher that starts a process for each rank.
    launcher = f"""
        import subprocess, sys
        for rank in range(2):
            subprocess.run([sys.executable, "-c", {COPY!r}], check=True)
    """
    installed.run("-c", textwrap.dedent(launcher), says="patched\npatched")


def test_console_scripts_are_patched(installed):
    script = Path(installed.python).with_name("wandb-ddp-patch")
    done = subprocess.run(
        [script, "--version"], env=clean_env(PYTHONPATH=None), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wandb-ddp-patch ")
    # What a console script is: an interpreter that runs a file of its folder.
    other = script.with_name("a-console-script")
    other.write_text(f"#!{installed.python}\n{COPY}\n")
    other.chmod(0o755)
    done = subprocess.run([other], env=clean_env(PYTHONPATH=None), capture_output=True, text=True)
    other.unlink()
    assert (done.stdout, done.stderr) == ("patched\n", "")


def test_torchrun(dists, environment, tmp_path):
    installed = environment(dists["wheel"], wandb=True)
    environments.link_torch(installed.folder)
    if installed.run("-c", "from importlib import util; print(util.find_spec('torch'))") == "None":
        pytest.skip("this torch is not for that interpreter")
    (tmp_path / "train.py").write_text(SCRIPT.replace("print(rank", "print(os.environ['RANK']"))
    script = tmp_path / "train.py"
    # Not in the processes that the ranks start: it would take most of this test's time.
    torch = "import os\nif __name__ == '__main__': import torch\n"
    script.write_text(torch + script.read_text())
    arguments = ["--nproc_per_node=2", "--master_port=0", script]
    done = installed.attempt(
        *("-W", "ignore", "-m", "torch.distributed.run"), *arguments, PYTHONWARNINGS="ignore"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:-1]) == ["0 0.1", "1 0.1"]


def test_jupyter_kernels(dists, environment, tmp_path):
    env = environment(dists["wheel"], "ipykernel", wandb=True)
    code = f"""
        import queue, sys
        from jupyter_client.manager import KernelManager
        manager = KernelManager(kernel_name="python3")
        manager.kernel_spec.argv[0] = sys.executable
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout={WAIT_SECONDS})
        client.execute_interactive({COPY!r}, timeout={WAIT_SECONDS})
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    """
    done = env.attempt("-c", textwrap.dedent(code), HOME=str(tmp_path))
    assert "patched" in done.stdout, done.stdout + done.stderr


# --- what it costs, and what it must not break ------------------------------

MODULES = "import sys; print(sorted(sys.modules)); print([type(f).__name__ for f in sys.meta_path])"


PYTHONS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]


@pytest.mark.parametrize("python", [TEST_PYTHON] if TEST_PYTHON else PYTHONS)
def test_at_start_up_nothing_is_imported_but_one_module_of_ours(environment, dists, python):
    env = environment(python=python)
    # Some releases import a codec to read a .pth file. For a .start file, 3.15 imports pkgutil.
    (env.site / "other.pth").write_text("#\n")
    modules, finders = map(eval, env.run("-c", MODULES).splitlines())
    env.install("--no-deps", dists["wheel"])
    with_us, with_finder = map(eval, env.run("-c", MODULES).splitlines())
    assert set(with_us) - set(modules) == {"wandb_ddp_patch_startup"}
    # One, though a virtual environment may run a .pth file twice.
    assert sorted(with_finder) == sorted([*finders, "module"])
    # Without wandb, nothing is said, and the error is Python's own.
    assert "ModuleNotFoundError: No module named 'wandb'" in env.attempt("-c", COPY).stderr


OPTIONS = ([], ["-S"], ["-I"], ["-E"], ["-s"], ["-B"], ["-O"], ["-W", "error"], ["-X", "dev"])


def quiet(env, **more):
    """Every interpreter of an environment starts, and says nothing."""
    for options in OPTIONS:
        env.run(*options, "-c", "pass", says="", **more)
    done = env.attempt("-X", "importtime", "-c", "pass", **more)
    assert done.returncode == 0
    assert all(line.startswith("import time:") for line in done.stderr.splitlines())


def test_interpreters_start_without_a_word(installed):
    quiet(installed)
    quiet(installed, WANDB_DDP_PATCH="0")
    quiet(installed, LC_ALL="C", PYTHONUTF8="0")
    done = installed.attempt("-c", COPY, WANDB_DDP_PATCH="0")
    assert "RecursionError" in done.stderr


def broken(env, what):
    package = env.site / "wandb_ddp_patch"
    if what == "folder deleted":
        shutil.rmtree(package)
    elif what == "only caches left":
        for path in package.rglob("*.py"):
            path.unlink()
    elif what == "a file deleted":
        (package / "_import_hook.py").unlink()
    elif what == "a file cut short":
        rewrite(package / "__init__.py", "def apply(")
    elif what == "another package of that name":
        rewrite(package / "__init__.py", "raise OSError('what?')")
    elif what == "an empty file":
        rewrite(package / "_import_hook.py", "")


@pytest.mark.parametrize(
    "what",
    [
        "folder deleted",
        "only caches left",
        "a file deleted",
        "a file cut short",
        "another package of that name",
        "an empty file",
    ],
)
def test_half_of_us_is_gone_and_interpreters_start(environment, dists, what):
    env = environment("--no-deps", dists["wheel"])
    env.run("-c", "import wandb_ddp_patch")
    broken(env, what)
    quiet(env)
    error = env.attempt("-c", "import wandb").stderr
    assert error.endswith("\nModuleNotFoundError: No module named 'wandb'\n")


def test_a_later_file_is_gone_and_wandb_works(environment, dists):
    env = environment(dists["wheel"], wandb=True)
    (env.site / "wandb_ddp_patch" / "_patching.py").unlink()
    quiet(env)
    done = env.attempt("-c", "import wandb; print(wandb.Config())")
    assert (done.returncode, done.stdout) == (0, "{}\n")
    assert {line[:38] for line in done.stderr.splitlines()} == {
        "wandb_ddp_patch: wandb is not patched:"
    }
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_wandb_fails_as_without_us(environment, dists):
    env = environment(dists["wheel"], wandb=True)
    rewrite(env.site / "wandb" / "sdk" / "wandb_config.py", "raise OSError('broken')")
    quiet(env)
    for code in ("import wandb", "import wandb.sdk.wandb_config"):
        done = [env.attempt("-c", code, WANDB_DDP_PATCH=on) for on in "01"]
        # But for the frames through which the import has gone.
        errors = [[line for line in d.stderr.splitlines() if "import" in line] for d in done]
        frames = ("importlib", "_import_hook")
        assert [e for e in errors[1] if not any(frame in e for frame in frames)] == errors[0]
        assert all(d.stderr.endswith("\nOSError: broken\n") for d in done)


def test_read_only_site_packages(environment, dists):
    env = environment(dists["wheel"], wandb=True)
    for path in (env.site / "__pycache__", *env.site.rglob("wandb_ddp_patch/**/__pycache__")):
        shutil.rmtree(path, ignore_errors=True)
    # Root may write everywhere, unless it gives that up.
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    before = ["setpriv", "--bounding-set=-dac_override"] if root else []
    if root and not shutil.which("setpriv"):
        pytest.skip("root writes everywhere, and there is no setpriv")
    folders = [env.site, *(path for path in env.site.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        write = f"open({str(env.site / 'x')!r}, 'w')"
        assert "PermissionError" in env.attempt("-c", write, before=before).stderr
        env.run("-c", "pass", says="", before=before)
        env.run("-c", COPY, says="patched", before=before)
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_beside_a_sitecustomize_of_the_users(environment, dists):
    env = environment("--no-deps", dists["wheel"])
    (env.site / "sitecustomize.py").write_text("import sys; sys.theirs = 'theirs'")
    quiet(env)
    code = "import sys; print(sys.theirs, 'wandb_ddp_patch_startup' in sys.modules)"
    env.run("-c", code, says="theirs True")
    (env.site / "sitecustomize.py").write_text("import wandb_ddp_patch")
    quiet(env)
    env.run("-c", "import wandb_ddp_patch as p; print(p._imported_by[0])", says="sitecustomize")


def test_beside_other_hooks_of_imports(environment, dists, tmp_path):
    env = environment(dists["wheel"], "setuptools", "coverage", wandb=True)
    assert list(env.site.glob("distutils-precedence.pth"))
    (env.site / "a_coverage.pth").write_text("import coverage; coverage.process_startup()\n")
    (tmp_path / "coveragerc").write_text("[run]\nparallel = true\n")
    quiet(env)
    measured = {"COVERAGE_PROCESS_START": str(tmp_path / "coveragerc")}
    (tmp_path / "train.py").write_text(COPY + "\nimport distutils.core")
    env.run(tmp_path / "train.py", says="patched", cwd=tmp_path, **measured)
    assert list(tmp_path.glob(".coverage.*"))


def test_another_start_up_file_imports_wandb_before_ours(environment, dists):
    env = environment(dists["wheel"], wandb=True)
    # Python 3.15 has every line of a .pth file before any entry of a .start file.
    (env.site / "aaa.pth").write_text("import wandb\n")
    if env.attempt("-c", "pass", WANDB_DDP_PATCH="0").returncode:
        pytest.skip("this wandb can't be imported by a start-up file")  # pydantic, on 3.15
    env.run("-c", COPY, says="patched")
    by = "import wandb_ddp_patch; print(wandb_ddp_patch._imported_by[0])"
    env.run("-c", by, says="wandb_ddp_patch_startup")
    assert "RecursionError" in env.attempt("-c", COPY, WANDB_DDP_PATCH="0").stderr
    (env.site / "wandb_ddp_patch" / "_registry.py").unlink()
    quiet(env)  # of us, only a part is left


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (["-X", "lazy_imports=all"], {}),  # which Python 3.15 has; others don't mind
        ([], {"PYTHON_LAZY_IMPORTS": "all"}),
        ([], {}),  # named in __lazy_modules__
    ],
)
def test_lazy_imports_do_not_put_off_the_form_that_we_show(environment, tmp_path, options, env):
    made = environment(wandb=True)
    (made.site / "a_path.pth").write_text(f"{ROOT}\n")  # as PYTHONPATH: no start-up file
    blocks = pages.split((ROOT / "docs" / "install.md").read_text("utf-8"))[1]
    block = min((each.text for each in blocks if "wandb_ddp_patch.apply()" in each.text), key=len)
    lazy = '__lazy_modules__ = ["wandb_ddp_patch"]'
    lines = [lazy, "import copy", "import wandb", block, "copy.copy(wandb.Config())"]
    (tmp_path / "train.py").write_text("\n".join([*lines, "print('patched')"]))
    made.run(*options, tmp_path / "train.py", says="patched", **env)


def test_status_tells_that_it_is_what_made_a_lazy_import_run(environment, tmp_path):
    made = environment(wandb=True)
    (made.site / "a_path.pth").write_text(f"{ROOT}\n")
    lines = ['__lazy_modules__ = ["wandb_ddp_patch"]', "import wandb", "import wandb_ddp_patch"]
    ask = "print({each.state for each in wandb_ddp_patch.status()} >= {'applied'})"
    for line in ("", "wandb_ddp_patch.apply()"):
        (tmp_path / "train.py").write_text("\n".join([*lines, line, ask]))
        done = made.attempt(tmp_path / "train.py")
        assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
        lazy = made.run("-c", "import sys; print(sys.version_info >= (3, 15))") == "True"
        late = "wandb_ddp_patch was imported lazily, after wandb" in done.stderr
        assert late == (lazy and not line)


def test_in_an_environment_that_sees_another(installed, tmp_path):
    # Both have our files, and run them.
    child = tmp_path / "child"
    environments.run_uv("venv", "--python", installed.python, str(child))
    site = next(child.glob("[Ll]ib*/**/site-packages"))
    (site / "parent.pth").write_text(f"import site; site.addsitedir({str(installed.site)!r})\n")
    for name in FILES:
        shutil.copy(installed.site / name, site)
    python = str(child / ("Scripts" if os.name == "nt" else "bin") / "python")
    code = f"{COPY}; import sys; print([type(f).__name__ for f in sys.meta_path].count('_Finder'))"
    done = run_script("-c", code, python=python, env={"PYTHONPATH": None})
    assert (done.stdout, done.stderr) == ("patched\n1\n", "")


def test_doctor_says_why_an_unchanged_script_is_not_patched(environment, dists, tmp_path):
    env = environment("--no-deps", dists["wheel"])
    command = tmp_path / "wandb-ddp-patch"
    ask = "from wandb_ddp_patch import doctor; print(doctor.environment()['inactive'])"
    command.write_text(f"import sys; sys.path.append({str(env.site)!r}); {ask}")
    env.run(command, says="None")
    env.run(command, says="not active: WANDB_DDP_PATCH=0", WANDB_DDP_PATCH="0")
    form = "start-up files. Only scripts that import wandb_ddp_patch and call"
    not_run = env.run("-S", command)
    if str(env.site) in env.run("-S", "-c", "import site; print(site.getsitepackages())"):
        assert not_run.startswith(f"not active: this Python has not run the {form}")
    for name in FILES - {"wandb_ddp_patch.pth"}:
        (env.site / name).unlink()
    assert f"not active: this Python has not run the {form}" in env.attempt(command).stdout
    (env.site / "wandb_ddp_patch.pth").unlink()
    assert env.run(command).startswith(f"not active: there are no {form}")


def test_status_says_that_it_is_active(installed):
    done = command(installed, "status")
    assert done.returncode == 0, done.stderr
    assert re.match(r"wandb_ddp_patch \S+ is active: \d+ patches on wandb \S+\.\n$", done.stdout)


def test_who_has_imported_us(installed, tmp_path):
    # The command itself imports us first; that is not who patches this environment.
    code = "from wandb_ddp_patch import doctor; print(doctor._imported_by())"
    command, script = tmp_path / "wandb-ddp-patch", tmp_path / "train.py"
    command.write_text(code)
    script.write_text(code)
    installed.run(command, says="start-up file")
    installed.run(script, says=f"script {script}")
    code = "import wandb_ddp_patch; print(wandb_ddp_patch._imported_by[0])"
    installed.run("-c", "import wandb; " + code, says="wandb_ddp_patch_startup")
    installed.run("-c", code, says="__main__")
    by_hand = f"import sys; sys.path.append({str(installed.site)!r}); {code}"
    installed.run("-S", "-c", by_hand, says="__main__")
