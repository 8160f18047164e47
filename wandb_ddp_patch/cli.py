"""The command ``wandb-ddp-patch``, or ``python -m wandb_ddp_patch``."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Dict, List, NoReturn, Optional

import wandb_ddp_patch

from .errors import CommandError

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[Any]

# In this entry point group, other distributions name functions that add a command each.
_GROUP = "wandb_ddp_patch.commands"
# Those of the testbed's, for the help and for a hint where it is not installed.
_TESTBED_COMMANDS = ("testbed", "export-diff", "export-pr", "add-line")
_NOT_INSTALLED = (
    "wandb-ddp-patch-testbed is not installed: pip install ./testbed in this package's"
    " source folder"
)


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments after the command's name; by default the process's own.

    Returns:
        The exit status: 0 where all is well, 1 where something that was examined is not, 2
        where the command could not do its work, and 130 where it was interrupted. Then one
        line on stderr says why.
    """
    with contextlib.suppress(ValueError):  # ValueError: this is not the main thread
        # As for Ctrl-C, so that whatever ends this, the processes that it has started are ended.
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "command"):
        parser.print_help()
        return 2
    try:
        status: int = options.command(options)
        sys.stdout.flush()
        return status
    except (CommandError, ImportError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # "| head"
            # Otherwise Python would complain at exit that it can't flush stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 2
        print(f"wandb-ddp-patch: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("wandb-ddp-patch: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"wandb-ddp-patch: {' '.join(message.split())} (try {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="wandb-ddp-patch",
        description="Makes Weights & Biases objects survive multi-process training.",
    )
    parser.add_argument(
        "--version", action="version", version=f"wandb-ddp-patch {wandb_ddp_patch.__version__}"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    _add_status(commands)
    _add_doctor(commands)
    _add_installed(commands)
    return parser


def _add_status(commands: _Commands) -> None:
    status = commands.add_parser(
        "status",
        help="say in one line whether wandb is patched here",
        description="Says whether wandb is patched in this environment, also for scripts that"
        " don't import this package. The exit status is 0 only if it is.",
    )
    status.set_defaults(command=_status)


def _status(_: argparse.Namespace) -> int:
    from . import doctor

    return doctor.status()


def _add_doctor(commands: _Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="say what is installed and patched here, and run every probe",
        description="Says what is installed and patched in this environment, and runs every"
        " probe without and with this package. The exit status is 0 only if none fails"
        " with it.",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON, for machines")
    doctor.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from . import doctor

    return doctor.main(as_json=options.json)


def _add_installed(commands: _Commands) -> None:
    """Add the commands of other distributions, and what stands in for those that are missing."""
    found = _entry_points()
    for name in dict.fromkeys([*_TESTBED_COMMANDS, *sorted(found)]):
        if name not in found:
            _add_unavailable(commands, name, _NOT_INSTALLED)
            continue
        try:
            add = found[name].load()
        # Whatever another distribution's import raises, doctor must go on working.
        except Exception as error:
            reason = f"{found[name].value} can't be imported: {type(error).__name__}: {error}"
            _add_unavailable(commands, name, reason)
        else:
            add(commands)


def _entry_points() -> Dict[str, importlib.metadata.EntryPoint]:
    """Return the entry points of the group, by name."""
    if sys.version_info >= (3, 10):
        entry_points = importlib.metadata.entry_points(group=_GROUP)
    else:  # those of all groups, in a dict
        entry_points = importlib.metadata.entry_points().get(_GROUP, ())
    return {entry_point.name: entry_point for entry_point in entry_points}


def _add_unavailable(commands: _Commands, name: str, reason: str) -> None:
    """Add a command that fails with a reason, whatever arguments it gets."""
    # No argument begins with this prefix, so all of them are positional, --help included:
    # else argparse would complain of unknown options, and the reason would not be seen.
    parser = commands.add_parser(name, help=reason, add_help=False, prefix_chars="\0")
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(command=functools.partial(_unavailable, name, reason))


def _unavailable(name: str, reason: str, _: argparse.Namespace) -> NoReturn:
    raise CommandError(f"{name}: {reason}")
