"""What the forkserver of spawn() imports, once for all workers.

Python can be told to preload ``__main__``, but in many releases up to 3.13 that
does nothing, and where it works an error in the script ends the server.
https://github.com/python/cpython/issues/126631
"""

import contextlib
import importlib
import json
import os
import random
import signal
import sys
import threading
from multiprocessing import process, spawn
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from . import kernel, open_files
from .import_audit import EnvironUse, record_atexit, record_environ_reads, record_environ_writes
from .package_folders import PackageFolders

VARIABLE = "_WANDB_DDP_PATCH_PRELOAD"

# Is replaced once all is imported; else what spawn() is to say.
why_not_loaded: Optional[str] = "the forkserver has died, and the next one has imported nothing"
# Names of the threads that importing the script has started: no fork has them.
threads: List[str] = []
# What importing all that has read of the environment, and the script has written; the files that
# gave atexit something to do.
use = EnvironUse()
at_exit: Set[str] = set()
# Files and connections that it has left open.
left_open: List[str] = []
# What importing all that has made, such as a lock, that each worker has to make for itself.
made: Optional[str] = None
# Timers that the script has set; what else it has changed that each worker is given anew; and
# sys.path as it has left it.
timers: List[str] = []
changed: List[str] = []
path: Optional[List[str]] = None
_numpy_seed: Optional[bytes] = None
# That of torch right after its own import, where we have seen that. Else: torch seeds itself with
# 64 random bits, people seed it with 32 at most: so many NumPy takes.
_torch_seed: Optional[int] = None
# How many threads torch takes, after its own import; None where we have not seen that.
_torch_threads: Optional[int] = None
_LARGEST_SEED = 2**32 - 1
# wandb's telemetry (of its newest releases), and what it imports at a worker's first row: 0.2 s.
_TELEMETRY = "wandb.analytics.opentelemetry.opentelemetry_proxy"
_TELEMETRY_NEEDS = [
    "requests",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
]
# Of Python's random module, where the script has seeded it.
_random_state: Optional[Tuple[Any, ...]] = None


def _load(
    before: List[str], script: Dict[str, Any], after: List[str], pythonpath: Optional[str]
) -> None:
    if pythonpath is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = pythonpath
    # Scripts ask whether there is a GPU when they are imported. Asked this way,
    # CUDA stays usable in forks.
    # https://docs.pytorch.org/docs/stable/notes/cuda.html#environment-variables
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    global why_not_loaded, made
    had, owned = kernel.descriptors(), kernel.own()
    online = os.environ.get("WANDB_MODE", "online") == "online"  # here: it counts as no read
    origins = PackageFolders(script)
    with record_environ_reads(use), record_atexit(at_exit, origins.is_a_package), _torch_noted():
        why = _load_script(before, script)
        _import(after)
        if "wandb" in sys.modules:
            with contextlib.suppress(Exception):
                _load_wandb_further(online)
    main = threading.main_thread()
    threads.extend(thread.name for thread in threading.enumerate() if thread is not main)
    now = kernel.descriptors()
    left_open.extend(sorted(now[number] for number in now.keys() - had.keys()))
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # else each worker would write it again
    open_files.flush_c()
    made = kernel.made_since(owned)
    timers.extend(_timers_stopped())
    open_files.mark_inherited()
    why_not_loaded = why


def _load_script(before: List[str], script: Dict[str, Any]) -> Optional[str]:
    global _numpy_seed, _random_state, path
    sys.path[:] = script["sys_path"]  # by which a spawned worker finds its first module, too
    _import(before)
    _numpy_seed = _seed_of_numpy()
    seed = _seed(random.getstate())
    current: Any = process.current_process()
    current._inheriting = True  # what keeps an unguarded script from starting workers
    try:
        with record_environ_writes(use.written):
            # prepare() puts these very lists into sys.
            lists = {name: list(script[name]) for name in ("sys_path", "sys_argv")}
            spawn.prepare({**script, **lists})
    except BaseException as error:  # where workers fail, too, they will say it
        return f"importing the script has failed in the forkserver: {error!r}"
    finally:
        del current._inheriting
    if _seed(random.getstate()) != seed:
        _random_state = random.getstate()
    changed.extend(_changed(script))
    path = list(sys.path) if sys.path != script["sys_path"] else None
    return None


def _timers_stopped() -> Iterator[str]:
    """Stop those that the script has set, which would end the forkserver."""
    for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"):
        kind = getattr(signal, name, None)
        if kind is not None and any(signal.setitimer(kind, 0)):
            yield name


def _changed(script: Dict[str, Any]) -> Iterator[str]:
    if sys.argv != script["sys_argv"]:
        yield "sys.argv"
    folder = None
    with contextlib.suppress(OSError):  # it may have removed it
        folder = os.getcwd()
    if folder != script["dir"]:
        yield "its working directory"


def _import(names: List[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _load_wandb_further(online: bool) -> None:
    # What is imported when a first config and run arrive, attach and log.
    _import([f"wandb_ddp_patch.transports.{name}" for name in ("service", "local")])
    if online and _TELEMETRY in sys.modules:
        _import(_TELEMETRY_NEEDS)
    from wandb.sdk.wandb_config import Config

    Config()


# A generator's state is 624 numbers, and how many of them are used up. The numbers
# change when it is seeded, and after 624 draws.
def _seed(state: Tuple[Any, ...]) -> Any:
    return state[1][:-1]


def _seed_of_numpy() -> Optional[bytes]:
    module: Any = sys.modules.get("numpy.random")
    return module.get_state()[1].tobytes() if module is not None else None


@contextlib.contextmanager
def _torch_noted() -> Iterator[None]:
    finder: Any = sys.modules[__name__.split(".")[0]]._finder
    on_imported = finder.on_imported

    def note(name: str) -> None:
        global _torch_seed, _torch_threads
        if name == "torch":
            with contextlib.suppress(Exception):
                _torch_threads = sys.modules[name].get_num_threads()
                _torch_seed = sys.modules[name].initial_seed()
        on_imported(name)

    finder.on_imported = note
    try:
        yield
    finally:
        del finder.on_imported


def set_torch_threads(number: int, read: Optional[str]) -> None:
    """Have torch take as many threads, unless the script has said how many.

    Args:
        number: What OMP_NUM_THREADS says now.
        read: What it said when torch has read it.
    """
    torch: Any = sys.modules["torch"]
    at_first = _torch_threads
    if at_first is None and read is not None and read.isdigit():
        at_first = int(read)
    if at_first in (None, torch.get_num_threads()):
        torch.set_num_threads(number)


def set_random_state() -> None:
    """Give a worker the random numbers that a spawned one would have.

    Those that the script has seeded are the same in all workers, others are
    the worker's own. Forks would all have the same of NumPy's and torch's, and none
    the script's of Python's, which is seeded anew in each.
    """
    if _random_state is not None:
        random.setstate(_random_state)
    if _numpy_seed is not None and _seed_of_numpy() == _numpy_seed:
        sys.modules["numpy.random"].seed()
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        seed = torch.initial_seed()
        if seed > _LARGEST_SEED if _torch_seed is None else seed == _torch_seed:
            torch.default_generator.seed()


def _take(handed: str) -> None:
    """Load what server.py has handed over: the text itself, or the path of its file."""
    global why_not_loaded
    try:
        if not handed.startswith("{"):
            with open(handed, encoding="ascii") as file:
                path, handed = handed, file.read()
            with contextlib.suppress(OSError):
                os.remove(path)
        data = json.loads(handed)
    except (OSError, ValueError) as error:
        why_not_loaded = f"the forkserver could not read what it is to import: {error}"
    else:
        _load(data["before"], data["script"], data["after"], data["PYTHONPATH"])


if VARIABLE in os.environ:
    handed = os.environ.pop(VARIABLE)
    # Another process that starts in the same moment may have inherited the variable.
    if sys.argv[:1] == ["-c"] and "multiprocessing.forkserver" in sys.modules:
        _take(handed)
