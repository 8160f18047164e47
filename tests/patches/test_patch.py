"""Applying, reverting, the import hook, and a wandb that we do not know."""

import copy
import inspect
import os
import re
import sys
import textwrap

import pytest
import wandb
from conftest import ROOT
from forks import PATCHED_WANDB, WANDB, WHAT_WANDB_IMPORTS
from scripts import run_script

from wandb_ddp_patch import _registry
from wandb_ddp_patch_testbed import environments

# One worker has the interpreters that all of them fork.
pytestmark = pytest.mark.xdist_group("patches")


def test_reverted_classes_are_those_of_an_unpatched_process(forked_from):
    code = """
    {first}
    import wandb
    {then}
    from wandb.sdk import wandb_config, wandb_run, wandb_summary
    from wandb.sdk.lib import disabled, preinit
    for owner in (wandb_config.Config, wandb_run.Run, wandb_summary.SummaryDict,
                  wandb_summary.Summary, wandb_summary.SummarySubDict,
                  disabled.SummaryDisabled, preinit.PreInitObject, preinit):
        print(owner.__name__, [(k, type(v).__name__, getattr(v, "__qualname__", ""))
                               for k, v in sorted(vars(owner).items())])
    print([type(getattr(wandb, name)).__name__ for name in ("log", "config", "summary", "save")])
    """
    patched = "import wandb_ddp_patch"

    def states(after, first="", then="", **env):
        return forked_from(code.format(first=first, then=then), after=after, **env)

    alone = states(WANDB)
    assert states(WHAT_WANDB_IMPORTS, patched, "wandb_ddp_patch.revert()") == alone
    assert states(WANDB, then=f"{patched}; wandb_ddp_patch.revert()") == alone
    assert states(WHAT_WANDB_IMPORTS, patched, WANDB_DDP_PATCH="0") == alone
    assert states(WHAT_WANDB_IMPORTS, patched) != alone


def test_revert_after_a_run_that_has_finished(forked_from):
    out = forked_from(
        """
        import wandb_ddp_patch, wandb
        wandb.init(project="p").finish()
        wandb_ddp_patch.revert()
        print({type(getattr(wandb, name)).__name__ for name in ("log", "save")})
        wandb_ddp_patch.apply()
        print(wandb.log.__name__, type(wandb.log).__name__)
    """,
        after=PATCHED_WANDB,
        quiet=False,
    )
    assert out == "{'function'}\nwandb.log PreInitCallable\n"


def test_status_before_wandb_and_after_turning_off(forked_from):
    out = forked_from(
        """
        import os, wandb_ddp_patch
        def states(): return sorted({s.state for s in wandb_ddp_patch.status()})
        print(states())
        wandb_ddp_patch.revert(); print(states())
        wandb_ddp_patch.apply(); print(states())
        import wandb
        os.environ["WANDB_DDP_PATCH"] = "0"
        print("applied" in states(), "__setstate__" in vars(wandb.Config))
    """,
        after=WHAT_WANDB_IMPORTS,
    )
    assert out.splitlines() == [
        "['waiting for import']",
        "['off']",
        "['waiting for import']",
        "True True",
    ]


def test_revert_leaves_what_somebody_has_patched_after_us(forked_from):
    out = forked_from(
        """
        import wandb_ddp_patch, wandb
        theirs = lambda self, key: "theirs"
        wandb.Config.__getattr__ = theirs
        wandb_ddp_patch.revert()
        print(vars(wandb.Config)["__getattr__"] is theirs, "__setstate__" in vars(wandb.Config))
    """,
        after=PATCHED_WANDB,
    )
    assert out == "True False\n"


@pytest.mark.parametrize("order", ["before", "after", "both", "submodule"])
def test_import_before_or_after_wandb(forked_from, order):
    patched, wandb_ = "import wandb_ddp_patch", "import wandb"
    lines = {
        "before": [patched, wandb_],
        "after": [wandb_, patched],
        "both": [patched, wandb_, "import importlib", "importlib.reload(wandb_ddp_patch)"],
        "submodule": [patched, "import wandb.sdk.wandb_config", wandb_],
    }[order]
    check = "print(hasattr(wandb.Config.__new__(wandb.Config), 'x'))"
    assert forked_from("\n".join([*lines, check]), after=WHAT_WANDB_IMPORTS) == "False\n"


def test_from_many_threads_at_once(forked_from):
    out = forked_from(
        """
        import threading
        barrier = threading.Barrier(8)
        def start(n):
            barrier.wait()
            if n % 2:
                import wandb
            import wandb_ddp_patch
            for _ in range(5):
                wandb_ddp_patch.apply()
        threads = [threading.Thread(target=start, args=(n,)) for n in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        import sys, wandb, wandb_ddp_patch
        print(sum(type(f).__name__ == "_Finder" for f in sys.meta_path))
        print({s.state for s in wandb_ddp_patch.status()} - {"not needed", "waiting for import"})
        wandb_ddp_patch.revert()
        print("__setstate__" in vars(wandb.Config))
    """,
        after=WHAT_WANDB_IMPORTS,
    )
    assert out == "1\n{'applied'}\nFalse\n"


def test_off_switch(forked_from):
    out = forked_from(
        """
        import sys, wandb_ddp_patch, wandb
        print({s.state for s in wandb_ddp_patch.status()})
        wandb_ddp_patch.apply()
        print("__setstate__" in vars(wandb.Config))
        print([f for f in sys.meta_path if type(f).__name__ == "_Finder"])
        """,
        after=WHAT_WANDB_IMPORTS,
        WANDB_DDP_PATCH="0",
    )
    assert out == "{'off'}\nFalse\n[]\n"


def test_importing_brings_in_nothing_but_our_own(fresh):
    out = fresh("""
        import sys
        before = set(sys.modules)
        import wandb_ddp_patch
        print(sorted(set(sys.modules) - before))
        wandb_ddp_patch.status()
        print("wandb" in sys.modules)
    """)
    assert out == "['wandb_ddp_patch']\nFalse\n"


def test_upstream_behaviours_that_stay(run):
    assert copy.deepcopy(run) is run
    assert isinstance(wandb.config, wandb.Config)
    assert "class Config" in inspect.getsource(wandb.Config)
    assert "def log" in inspect.getsource(type(run).log)
    assert list(inspect.signature(wandb.init).parameters)
    assert dict(wandb.config)["lr"] == 0.1
    wandb.config.update({"new": 1})
    assert run.config.new == 1
    with pytest.raises(AttributeError) as error:
        wandb.config.missing  # noqa: B018
    assert str(error.value) == f"{wandb.Config!r} object has no attribute 'missing'"
    assert isinstance(error.value.__cause__, KeyError)
    with pytest.raises(KeyError, match="'missing'"):
        wandb.config["missing"]


def test_missing_name_reads_as_upstreams(forked_from):
    code = """
    import {patched}wandb
    try: wandb.Config().missing
    except AttributeError as error: print(type(error).__name__, error, repr(error.__cause__))
    """
    alone = forked_from(code.format(patched=""), after=WANDB)
    assert forked_from(code.format(patched="wandb_ddp_patch, "), after=PATCHED_WANDB) == alone


# --- a wandb of the future --------------------------------------------------

# What is done to a real wandb before we see it, what the warning says of it,
# and whether that wandb still works by itself.
FUTURES = {
    "class renamed": (
        "run.wandb_config = types.SimpleNamespace(Config=config.Config); del config.Config",
        "wandb.sdk.wandb_config has no class Config",
        True,
    ),
    "method removed": (
        "del config.Config._load_defaults",
        "wandb.sdk.wandb_config.Config has no _load_defaults",
        False,
    ),
    "getattr removed": (
        "del config.Config.__getattr__",
        "wandb.sdk.wandb_config.Config has no __getattr__",
        True,
    ),
    "another storage": (
        "config.Config.__init__ = lambda self: object.__setattr__(self, '_data', {})",
        "wandb.sdk.wandb_config.Config",
        False,
    ),
    "module replaced": (
        "sys.modules['wandb.sdk.wandb_config'] = types.ModuleType('wandb.sdk.wandb_config')",
        "wandb.sdk.wandb_config has no class Config",
        True,
    ),
    "summary renamed": (
        "summary.Root = summary.SummaryDict; del summary.SummaryDict",
        "wandb.sdk.wandb_summary has no class SummaryDict",
        True,
    ),
    "run callback removed": (
        "del run.Run._summary_update_callback",
        "wandb.sdk.wandb_run.Run has no _summary_update_callback",
        False,
    ),
    "preinit replaced": (
        "sys.modules['wandb.sdk.lib.preinit'] = types.ModuleType('wandb.sdk.lib.preinit')",
        "wandb.sdk.lib.preinit has no class PreInitObject",
        True,
    ),
}

FUTURE = """
import sys, types, warnings
import wandb
from wandb.sdk import wandb_config as config, wandb_run as run, wandb_summary as summary
{change}
{patched}
"""
USE = """
run = wandb.init(mode="offline", project="p", config={"lr": 1})
run.log({"x": 1})
print(dict(run.summary._as_dict())["x"], run.config["lr"])
run.finish()
"""
IMPORT = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import wandb_ddp_patch
    wandb_ddp_patch.apply()
print(len(caught), caught[0].category.__name__, caught[0].message)
print([s.why for s in wandb_ddp_patch.status() if s.state == "skipped"])
"""


@pytest.mark.parametrize("kind", FUTURES)
def test_unknown_wandb_gives_one_warning_and_works_as_without_us(forked_from, kind):
    change, reason, works = FUTURES[kind]
    alone = forked_from(FUTURE.format(change=change, patched=USE if works else ""), after=WANDB)
    patched = FUTURE.format(change=change, patched=IMPORT + (USE if works else ""))
    out = forked_from(patched, after=WANDB)
    warning, skipped, *rest = out.splitlines()
    assert warning.startswith("1 RuntimeWarning wandb_ddp_patch: ")
    assert reason in warning
    assert reason in skipped
    assert rest == alone.splitlines()


def test_a_graft_that_does_not_fit_leaves_no_trace(forked_from):
    change = FUTURES["another storage"][0]
    look = "print(sorted(map(str, vars(config.Config).items())) == before)"
    code = FUTURE.format(change=change, patched=IMPORT).replace(
        "with warnings", "before = sorted(map(str, vars(config.Config).items()))\nwith warnings"
    )
    assert forked_from(code + look, after=WANDB).splitlines()[-1] == "True"


def test_unknown_wandb_under_warnings_as_errors_still_works(forked_from):
    change = FUTURES["class renamed"][0]
    patched = "warnings.simplefilter('error'); import wandb_ddp_patch; print('imported')"
    code = FUTURE.format(change=change, patched=patched)
    assert forked_from(code, after=WANDB, quiet=False) == "imported\n"


def alone(python, code, *options, **env):
    """Run code with this package on the path, and return its two outputs."""
    env["PYTHONPATH"] = str(ROOT)
    done = run_script(*options, "-c", code, python=python, env=env)
    return done.stdout, done.stderr


def test_too_old_a_wandb_is_said_in_a_sentence(release):
    python = release("0.9.7", "3.8")
    code = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"
    code += "import wandb_ddp_patch, wandb; print(wandb.__version__)"
    out, said = alone(python, code)
    assert out == "0.9.7\n"
    (line,) = [line for line in said.splitlines() if "RuntimeWarning" in line]
    assert line.endswith("wandb 0.9.7 is not patched: this needs wandb 0.10.23 or later")


def test_too_old_a_python_is_said_in_a_sentence():
    try:
        python = environments.find_python("3.7")
    except environments.NoPython as error:
        pytest.skip(str(error))
    code = "import wandb_ddp_patch as p; p.apply(); print({each.state for each in p.status()})"
    out, said = alone(python, code)
    assert out == "{'off'}\n"
    assert said == "wandb_ddp_patch does nothing here: it needs Python 3.8 or later\n"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("share()", "sharing a run needs wandb: pip install wandb"),
        ("broadcast()", "wandb_ddp_patch.broadcast() needs PyTorch: pip install torch"),
        ("spawn(print)", "wandb_ddp_patch.spawn() needs PyTorch: pip install torch"),
    ],
)
def test_what_is_not_installed_is_said_in_a_sentence(call, said):
    code = f"""
import wandb_ddp_patch
try:
    wandb_ddp_patch.{call}
except ImportError as error:
    print(type(error).__name__, error)
"""
    assert alone(sys.executable, code, "-S") == (f"ImportError {said}\n", "")


# --- the hook ---------------------------------------------------------------


def test_the_real_loader_is_back_and_the_module_is_as_without_us(forked_from):
    code = """
    {patched}
    import importlib.util, pkgutil
    print(type(importlib.util.find_spec("wandb.sdk.wandb_config").loader).__name__ != "")
    import wandb, inspect, importlib.resources
    import wandb.sdk.wandb_config as module
    for m in (wandb, module):
        print(type(m.__loader__).__name__, m.__spec__.loader is m.__loader__, m.__file__)
    print(len(pkgutil.get_data("wandb", "py.typed") or b""))
    print(len(inspect.getsource(module.Config)))
    print(importlib.resources.files("wandb").joinpath("__init__.py").is_file())
    importlib.reload(module)
    print(len(module.Config().keys()))
    """
    alone, patched = (
        forked_from(code.format(patched=line), after=WHAT_WANDB_IMPORTS)
        for line in ("", "import wandb_ddp_patch")
    )
    assert alone == patched


# What a program sees of imports, which must be the same with our finder and without.
AS_WITHOUT_US = {
    "find_spec before the import": """
        import importlib.util, sys
        for name in ("wandb", "wandb.sdk.wandb_config", "torch", "no_such_module"):
            spec = importlib.util.find_spec(name)
            if spec is None: print(name, spec); continue
            print(spec.name, spec.origin, spec.submodule_search_locations, spec.cached, spec.parent)
            print(spec.loader.is_package(name), len(spec.loader.get_source(name)),
                  spec.loader.get_filename(name), spec.loader.get_resource_reader(name) is not None)
        """,
    "a module that is made by hand": """
        import importlib.util, sys
        spec = importlib.util.find_spec("wandb.sdk.wandb_config")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        print(module.Config, module.__spec__.loader is module.__loader__, type(module.__loader__))
        """,
    "a lazy import": """
        import importlib.util, sys
        spec = importlib.util.find_spec("wandb")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules["wandb"] = module
        spec.loader.exec_module(module)
        print(module.Config.__name__, module.__name__)
        """,
    "a package in a zip file": """
        import inspect, pkgutil, sys, zipfile
        with zipfile.ZipFile("packages.zip", "w") as file:
            file.writestr("torch/__init__.py", "from . import part")
            file.writestr("torch/part.py", "import torch\\nclass Part: 'in a zip file'\\n")
            file.writestr("torch/data.txt", "data")
        sys.path.insert(0, "packages.zip")
        import torch
        print(type(torch.__loader__), torch.__spec__.loader is torch.__loader__, torch.__file__)
        print(pkgutil.get_data("torch", "data.txt"), inspect.getsource(torch.part.Part))
        """,
    "a namespace package": """
        import os, sys
        os.makedirs("one/torch"); os.makedirs("two/torch")
        open("one/torch/a.py", "w").close(); open("two/torch/b.py", "w").close()
        sys.path[:0] = ["one", "two"]
        sys.path[:] = [path for path in sys.path if "packages" not in path]
        import torch.a, torch.b
        print(list(torch.__path__), torch.__file__, type(torch.__loader__).__name__)
        """,
    "a circular import": """
        import os, sys
        os.mkdir("torch")
        with open("torch/__init__.py", "w") as file:
            file.write("import user\\nfrom . import part\\nready = True\\n")
        with open("torch/part.py", "w") as file:
            file.write("import torch, user\\nprint(vars(torch).get('ready'), vars(user).keys())\\n")
        with open("user.py", "w") as file:
            file.write("import torch\\nprint(hasattr(torch, 'ready'), torch.__spec__.name)\\n")
        import user
        print(user.torch.ready, user.torch.__spec__._initializing)
        """,
    "a failing import, retried": """
        import os, sys, traceback
        os.mkdir("torch")
        with open("torch/__init__.py", "w") as file: file.write("import nothing_of_that_name\\n")
        for _ in range(2):
            try: import torch
            except ImportError: traceback.print_exc(file=sys.stdout)
            print([name for name in sys.modules if name.startswith("torch")])
        with open("torch/__init__.py", "w") as file: file.write("ready = True  # at last\\n")
        import torch
        print(torch.ready)
        """,
    "runpy": """
        import os, runpy
        os.mkdir("torch"); open("torch/__init__.py", "w").close()
        with open("torch/version.py", "w") as file: file.write("__version__ = '1.0'")
        print(runpy.run_module("wandb.sdk.wandb_config")["Config"].__name__)
        print(runpy.run_module("torch.version")["__version__"])
        """,
    "pytest's assertion rewriter": """
        import pytest, re, sys
        with open("test_one.py", "w") as file:
            file.write("import wandb, torch\\ndef test(): a = 1; assert a == 2\\n")
        pytest.main(["-q", "-p", "no:cacheprovider", "test_one.py"])
        """,
    "a debugger": """
        import bdb, sys
        class Debugger(bdb.Bdb):
            seen = 0
            def user_line(self, frame): self.seen += "wandb_config" in frame.f_code.co_filename
        debugger = Debugger(skip=["importlib*"])
        debugger.run("import wandb.sdk.wandb_config as module; module.Config")
        print(debugger.seen > 10)
        """,
}


def test_wandb_that_is_imported_lazily_is_patched_without_a_word(forked_from):
    code = textwrap.dedent(AS_WITHOUT_US["a lazy import"])
    code = f"""
import wandb_ddp_patch
{code}
print({{status.state for status in wandb_ddp_patch.status()}})
    """
    out = forked_from(code, after=WHAT_WANDB_IMPORTS)
    assert "skipped" not in out
    assert "applied" in out


@pytest.mark.parametrize("what", AS_WITHOUT_US)
def test_imports_are_what_they_are_without_us(forked_from, tmp_path, what):
    said = []
    for patched in ("", "import wandb_ddp_patch"):
        (tmp_path / ("with" if patched else "without")).mkdir()
        code = f"{patched}\nimport os\nos.chdir({'with' if patched else 'without'!r})\n"
        code += "import sys\nsys.path.insert(0, '')\n"
        code += textwrap.dedent(AS_WITHOUT_US[what])
        out = forked_from(code, after=WHAT_WANDB_IMPORTS, quiet=False)
        out = re.sub(r"0x[0-9a-f]+|in \d+\.\d+s", "", out)
        # A traceback shows through which file of ours an import has gone.
        out = re.sub(r" +File .*_import_hook.py.*\n.*\n", "", out)
        said.append(out.replace(f"{os.sep}with{os.sep}", f"{os.sep}without{os.sep}"))
    assert said[0] == said[1]
    assert said[0].strip()


def test_a_reloaded_class_is_patched_again(forked_from):
    out = forked_from(
        """
        import importlib, wandb_ddp_patch, wandb, wandb.sdk.wandb_config as module
        old = module.Config
        importlib.reload(module)
        print(module.Config is old, hasattr(module.Config.__new__(module.Config), "x"))
        wandb_ddp_patch.revert()
        print("__setstate__" in vars(module.Config), "__reduce__" in vars(old))
    """,
        after=PATCHED_WANDB,
    )
    assert out == "False False\nFalse False\n"


def test_an_import_that_fails_half_way_is_patched_when_retried(forked_from, tmp_path):
    out = forked_from(
        """
        import sys, wandb_ddp_patch
        sys.modules["wandb.sdk.lib.preinit"] = None  # makes importing it fail
        try: import wandb
        except ImportError: print("failed")
        del sys.modules["wandb.sdk.lib.preinit"]
        for name in [n for n in sys.modules if n == "wandb" or n.startswith("wandb.")]:
            del sys.modules[name]
        import wandb
        print(hasattr(wandb.Config.__new__(wandb.Config), "x"))
    """,
        after=WHAT_WANDB_IMPORTS,
    )
    assert out == "failed\nFalse\n"


def test_other_finders_still_find_watched_modules(forked_from):
    out = forked_from(
        """
        import sys, importlib.machinery, wandb_ddp_patch
        seen = []
        class Theirs:
            @staticmethod
            def find_spec(name, path=None, target=None):
                # As ours does, it asks everybody: neither may loop.
                seen.append(name)
                for finder in sys.meta_path:
                    if finder is not Theirs and type(finder).__name__ != "_Finder":
                        spec = finder.find_spec(name, path, target)
                        if spec: return spec
        sys.meta_path.insert(0, Theirs)
        sys.meta_path.insert(1, wandb_ddp_patch._Finder())
        import wandb
        print("wandb" in seen)
    """,
        after=WHAT_WANDB_IMPORTS,
        quiet=False,
    )
    assert out == "True\n"


def test_graft_locks_do_not_deadlock_with_import_locks(forked_from):
    out = forked_from(
        """
        import threading, wandb_ddp_patch
        done = []
        def apply():
            for _ in range(200): wandb_ddp_patch.apply()
            done.append(1)
        threads = [threading.Thread(target=apply, daemon=True) for _ in range(4)]
        for t in threads: t.start()
        import wandb
        for t in threads: t.join(240)
        print(len(done), hasattr(wandb.Config.__new__(wandb.Config), "x"))
    """,
        after=WHAT_WANDB_IMPORTS,
    )
    assert out == "4 False\n"


def test_lock_is_free_after_all_this():
    assert _registry._lock.acquire(timeout=60)
    _registry._lock.release()


def test_functions_before_init_look_like_functions(forked_from):
    code = """
    import functools, typing
    import wandb_ddp_patch, wandb
    wrapped = functools.wraps(wandb.log)(lambda: None)
    print(wandb.log.__qualname__, wandb.log.__module__, wrapped.__qualname__)
    print(typing.get_type_hints(wandb.log))
    """
    assert forked_from(code, after=PATCHED_WANDB) == "log wandb log\n{}\n"
