"""What the forkserver of spawn() imports, once for all workers.

Python can be told to preload ``__main__``, but in many releases up to 3.13 that
does nothing, and where it works an error in the script ends the server.
https://github.com/python/cpython/issues/126631
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
from multiprocessing import process, spawn
from typing import Any, Dict, Iterator, List, Optional, TypedDict

from . import open_files, process_state
from .import_audit import (
    ImportReport,
    PackageFolders,
    record_atexit,
    record_environ_reads,
    record_environ_writes,
)
from .library_state import LibraryState

VARIABLE = "_WANDB_DDP_PATCH_PRELOAD"
CUDA_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
# wandb's telemetry (of its newest releases), and what it imports at a worker's first row: 0.2 s.
_TELEMETRY = "wandb.analytics.opentelemetry.opentelemetry_proxy"
_TELEMETRY_NEEDS = [
    "requests",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
]

# Filled in here, in the forkserver; read in its forks. The process that starts the forkserver
# also imports this module, and keeps the initial values.
report = ImportReport()
libraries = LibraryState()


class PreloadRequest(TypedDict):
    """What server.py passes to the forkserver, as a file of JSON.

    Attributes:
        before: The names of modules to import before the script.
        script: What multiprocessing prepares a spawned worker with.
        after: The names of modules to import after the script.
        pythonpath: The variable PYTHONPATH as the script has it.
    """

    before: List[str]
    script: Dict[str, Any]
    after: List[str]
    pythonpath: Optional[str]


def _handle(request: PreloadRequest) -> None:
    set_pythonpath(request["pythonpath"])
    avoid_cuda_driver()
    descriptors = process_state.open_descriptors()
    resources = process_state.unforkable_resources()
    # Read before recording begins: else a change of WANDB_MODE would make all workers slow ones.
    online = os.environ.get("WANDB_MODE", "online") == "online"
    # Made before sys.path is the script's: it has to see what is found without the script.
    is_package_file = PackageFolders(request["script"]).is_package_file
    with record_environ_reads(report.environ), record_atexit(report.atexit_files, is_package_file):
        with libraries.recorded_torch_import():
            problem = _import_script(request["before"], request["script"])
            import_all(request["after"])
        if "wandb" in sys.modules:
            with contextlib.suppress(Exception):
                _import_for_first_row(online)
    main = threading.main_thread()
    report.threads = [thread.name for thread in threading.enumerate() if thread is not main]
    now = process_state.open_descriptors()
    report.open_files = sorted(now[number] for number in now.keys() - descriptors.keys())
    # A fork inherits what is buffered: without this, each worker would write it once more.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    open_files.flush_c_streams()
    report.resource = process_state.new_resource(resources)
    report.timers = list(stop_timers())
    open_files.mark_inherited()
    report.problem = problem


def set_pythonpath(value: Optional[str]) -> None:
    """Set PYTHONPATH to what the script has, where this process needed more in it to start."""
    if value is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = value


def avoid_cuda_driver() -> None:
    """Have the import of scripts that call torch.cuda.is_available() not initialise CUDA's driver.

    No fork could use that then; with this variable, torch asks NVML instead.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#environment-variables
    """
    os.environ.setdefault(CUDA_CHECK, "1")


def _import_script(modules_before: List[str], script: Dict[str, Any]) -> Optional[str]:
    """Import the script as a spawned worker does; return why that has failed, or None."""
    # A spawned worker finds its very first module by the script's sys.path. Here, that of
    # "python -c" would decide about the modules before the script.
    sys.path[:] = script["sys_path"]
    import_all(modules_before)
    current: Any = process.current_process()
    # With this, multiprocessing refuses to start processes: else the import of a script without
    # "if __name__ == '__main__'" would start its workers, and each of them would do so again.
    current._inheriting = True
    try:
        with libraries.recorded_script(), record_environ_writes(report.environ.written):
            # Copies, because prepare() makes these very lists sys.path and sys.argv: what the
            # script appends to them would also be in `script`, and not be seen below.
            lists = {name: list(script[name]) for name in ("sys_path", "sys_argv")}
            spawn.prepare({**script, **lists})
    except BaseException as error:  # where it also fails in spawned workers, they report it
        return f"importing the script failed in the forkserver: {error!r}"
    finally:
        del current._inheriting
    report.changes = list(_changes(script))
    if sys.path != script["sys_path"]:
        report.sys_path = list(sys.path)
    return None


def stop_timers() -> Iterator[str]:
    """Stop the timers that an import has set, and yield their names.

    Their signals would end the forkserver. Forks inherit no timer.
    """
    for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"):
        kind = getattr(signal, name, None)
        if kind is not None and any(signal.setitimer(kind, 0)):
            yield name


def _changes(script: Dict[str, Any]) -> Iterator[str]:
    if sys.argv != script["sys_argv"]:
        yield "sys.argv"
    folder = None
    with contextlib.suppress(OSError):  # the script may have removed it
        folder = os.getcwd()
    if folder != script["dir"]:
        yield "its working directory"


def import_all(names: List[str]) -> None:
    """Import modules, those that can be."""
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _import_for_first_row(online: bool) -> None:
    # What is imported when a first config and run arrive, attach and log.
    import_all([f"wandb_ddp_patch.transports.{name}" for name in ("service", "local")])
    if online and _TELEMETRY in sys.modules:
        import_all(_TELEMETRY_NEEDS)
    from wandb.sdk.wandb_config import Config

    Config()


def receive(path: str) -> None:
    """Handle the request that server.py has left in a file, and remove that."""
    try:
        with open(path, encoding="ascii") as file:
            request: PreloadRequest = json.load(file)
        with contextlib.suppress(OSError):
            os.remove(path)
    except (OSError, ValueError) as error:
        report.problem = f"the forkserver could not read what it is to import: {error}"
    else:
        _handle(request)


if VARIABLE in os.environ:
    _path = os.environ.pop(VARIABLE)
    # Another process that another thread has started at the same moment may have inherited the
    # variable. It must not take the place of the forkserver, nor remove its file.
    if sys.argv[:1] == ["-c"] and "multiprocessing.forkserver" in sys.modules:
        receive(_path)
