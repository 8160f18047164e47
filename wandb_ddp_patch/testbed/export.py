"""``export-diff``: the grafts' own source, put into the classes of a wandb source tree.

What the runtime copies onto upstream's classes is here spliced into their text:
methods that a class has are replaced, others follow its last one, and helpers and
imports that they name come with them. ruff gives it upstream's style.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import inspect
import re
import subprocess
import sys
import textwrap
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from ..errors import Failure
from ..grafts import _names, config, preinit, summary
from . import standalone, trees

# Probes that need more than classes by themselves: a worker's end, a relay, spawn().
NEEDS_WORKER_CODE = (
    "they need code that runs in a worker and at its end, or in the owner for it, which is"
    " more than a class by itself can have: worker.py, service.py, relay.py, launch.py"
)


@dataclass(frozen=True)
class Splice:
    """One graft and where its source goes.

    Attributes:
        file: The file in the source tree.
        target: The class, or the function that becomes one, in it.
        body: The graft's class.
        needs: Members without which the class is not the one that the graft fits.
    """

    file: str
    target: str
    body: type
    needs: Tuple[str, ...] = ()


_CONFIG = "wandb/sdk/wandb_config.py"
_SUMMARY = "wandb/sdk/wandb_summary.py"
_DISABLED = "wandb/sdk/lib/disabled.py"
_PREINIT = "wandb/sdk/lib/preinit.py"
_RUN = "wandb/sdk/wandb_run.py"
_HOOKS = "wandb/sdk/lib/import_hooks.py"

SPLICES = (
    Splice(_CONFIG, "Config", config.Config, ("__getitem__", "__getattr__", "_load_defaults")),
    Splice(_SUMMARY, "SummaryDict", summary.SummaryDict, ("__getitem__", "_as_dict", "_update")),
    Splice(_SUMMARY, "Summary", summary.Summary, ("_as_dict", "_set_update_callback")),
    Splice(_SUMMARY, "SummarySubDict", summary.SummarySubDict, ("_as_dict", "_update")),
    Splice(_DISABLED, "SummaryDisabled", summary.SummaryDisabled, ("__getitem__",)),
    Splice(_PREINIT, "PreInitObject", preinit.PreInitObject, ("__getattr__",)),
    Splice(_PREINIT, "PreInitCallable", preinit.PreInitCallable),
    Splice(_RUN, "Run", standalone.Run, ("__getstate__", "__setstate__")),
)

# Helpers that more than one file needs, and the file that has them.
_HOMES = {"MissingNameError": _SUMMARY}


def diff(tree: Path) -> str:
    """Make a unified diff that puts the grafts into a source tree of wandb.

    Args:
        tree: The folder that has ``wandb/__init__.py``; it is not changed.

    Returns:
        The diff, for ``git apply`` or ``patch -p1``; empty where the tree has it all.

    Raises:
        Failure: It is no such tree, or a class in it is not the one that a graft fits.
    """
    parts: List[str] = []
    for file, text in changed(tree).items():
        before = trees.read(tree / file)
        for line in difflib.unified_diff(_lines(before), _lines(text), f"a/{file}", f"b/{file}"):
            parts.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return "".join(parts)


def _lines(text: str) -> List[str]:
    # As ast counts them: str.splitlines() knows of more line ends.
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def changed(tree: Path) -> Dict[str, str]:
    """Give the new text of each file that the diff changes, by its path in the tree."""
    trees.tree_version(tree)
    texts: Dict[str, str] = {}
    for splice in SPLICES:
        path = tree / splice.file
        if not path.is_file():
            if splice.file == _DISABLED:
                continue  # of the past: nothing is amiss where it is gone
            raise Failure(f"{splice.file} is not there: this tree is not one that the grafts fit")
        text = texts.get(splice.file) or _read(path)
        texts[splice.file] = _spliced(splice, text, path)
    if (tree / _HOOKS).is_file() and "add_safe_globals" not in texts[_CONFIG]:
        imports = ["from .lib.import_hooks import register_post_import_hook"]
        text = texts[_CONFIG].rstrip() + "\n\n" + standalone.TORCH
        texts[_CONFIG] = _with_imports(text, imports, tree / _CONFIG)
    new = {}
    for file, text in texts.items():
        path = tree / file
        before = _read(path)
        if text == before:
            continue
        # What a replaced function alone has used; not what had no use before.
        unused = ["check", "--quiet", "--select", "F401", "--fix"]
        if _ruff(unused, before, path) == before:
            text = _ruff(unused, text, path)
        new[file] = text.replace("\n", "\r\n") if "\r\n" in trees.read(path) else text
    return new


def _read(path: Path) -> str:
    return trees.read(path).replace("\r\n", "\n")


def _spliced(splice: Splice, text: str, path: Path) -> str:
    try:
        module = ast.parse(text)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise Failure(f"{splice.file}{where}: {error.msg}") from None
    except ValueError as error:
        raise Failure(f"{splice.file}: {error}") from None
    target = next((n for n in module.body if getattr(n, "name", "") == splice.target), None)
    if target is None and splice.file == _DISABLED:
        return text
    members = set(_members(target)) if isinstance(target, ast.ClassDef) else set(splice.needs)
    lacks = [name for name in splice.needs if name not in members]
    if target is None or lacks or (splice.needs and not isinstance(target, ast.ClassDef)):
        what = f"no {', '.join(lacks)} in" if lacks else "no"
        raise Failure(
            f"{splice.file} has {what} class {splice.target}: the grafts do not fit this tree"
        )
    names: Set[str] = set()
    body = splice.body
    edits: List[Tuple[int, int, str]]
    if isinstance(target, ast.ClassDef) and members:
        edits = _into_class(text, target, body, names, path)
    else:
        source = inspect.getsource(body)
        names |= _names_in(source)
        start, end = _lines_of(target)
        edits = [(start, end, _formatted(source, path))]
    helpers, imports = _wanted(names, module, sys.modules[body.__module__], splice.file, path)
    if helpers:
        start, _ = _lines_of(target)
        edits.append((start, start - 1, helpers + "\n\n"))
    lines = _lines(text)
    for start, end, new in sorted(edits, reverse=True):
        lines[start - 1 : end] = [new]
    text = "".join(lines)
    return _with_imports(text, imports, path) if imports else text


def _into_class(
    text: str, target: ast.ClassDef, body: type, names: Set[str], path: Path
) -> List[Tuple[int, int, str]]:
    here = _members(target)
    edits, new = [], []
    for name, source in _graft_members(body, text, target).items():
        names |= _names_in(source)
        formatted = _formatted(source, path, inside=True)
        if name in here:
            formatted = _with_signature(formatted, here[name], text)
            edits.append((*_lines_of(here[name]), formatted))
        else:
            new.append(formatted)
    if new:
        end = _lines_of(target)[1]
        edits.append((end + 1, end, "".join("\n" + member for member in new)))
    return edits


def _graft_members(body: type, text: str, target: ast.ClassDef) -> Dict[str, str]:
    found = _sources(body)
    if body is config.Config:
        # As at run time: releases whose own class raises KeyError go on to do so.
        own = _members(target)["__getattr__"]
        if "AttributeError" not in (ast.get_source_segment(text, own) or ""):
            found.update(_sources(config.ConfigWithKeyError))
    return found


def _sources(body: type) -> Dict[str, str]:
    source = textwrap.dedent(inspect.getsource(body))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    lines = _lines(source)
    found = {}
    for name, node in _members(tree).items():
        start, end = _lines_of(node)
        found[name] = "".join(lines[start - 1 : end])
    return found


def _with_signature(new: str, old: ast.stmt, text: str) -> str:
    """Keep upstream's annotations, where a method goes on to take what it took."""
    (own,) = ast.parse(textwrap.dedent(new)).body
    if not (isinstance(old, ast.FunctionDef) and isinstance(own, ast.FunctionDef)):
        return new
    if [a.arg for a in own.args.args] != [a.arg for a in old.args.args] or own.decorator_list:
        return new
    start, end = _lines_of(old)
    lines = _lines(text)[start - 1 : end]
    return "".join(lines[: _header(lines)] + _lines(new)[_header(_lines(new)) :])


def _header(lines: List[str]) -> int:
    """Count the lines of a method up to the colon of its signature."""
    depth = 0
    for token in tokenize.generate_tokens(iter(lines).__next__):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
            if token.string == ":" and depth == 0:
                return token.start[0]
    raise AssertionError("a function without a colon")


def _members(target: Any) -> Dict[str, ast.stmt]:
    members: Dict[str, ast.stmt] = {}
    for node in target.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            members[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            members[node.targets[0].id] = node
    return members


def _lines_of(node: Any) -> Tuple[int, int]:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return first, node.end_lineno


# --- what comes with it -----------------------------------------------------


def _names_in(source: str) -> Set[str]:
    nodes = ast.walk(ast.parse(textwrap.dedent(source)))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _top_level(module: ast.Module) -> Dict[str, ast.stmt]:
    names: Dict[str, ast.stmt] = {}
    for node in module.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                names[(alias.asname or alias.name).split(".")[0]] = node
        elif isinstance(node, ast.Assign):
            names.update({n.id: node for n in node.targets if isinstance(n, ast.Name)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
        elif hasattr(node, "name"):
            names[node.name] = node
    return names


def _wanted(
    names: Set[str], tree: ast.Module, graft: Any, file: str, path: Path
) -> Tuple[str, List[str]]:
    """Give the source of the helpers and the imports that names stand for."""
    have = set(_top_level(tree)) | set(vars(builtins))
    imports: List[str] = []
    helpers: List[str] = []
    todo, seen = sorted(names), set(have)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        home = _HOMES.get(name, file)
        if home != file:
            imports.append(f"from {home[:-3].replace('/', '.')} import {name}")
            continue
        source = inspect.getsource(_names if name in _HOMES else graft)
        node = _top_level(ast.parse(source)).get(name)
        if node is None:
            continue  # a local name
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            (alias,) = [a for a in node.names if (a.asname or a.name).split(".")[0] == name]
            line = f"import {alias.name}"
            if isinstance(node, ast.ImportFrom):
                line = f"from {node.module} import {alias.name}"
            imports.append(line)
            continue
        start, end = _lines_of(node)
        segment = "".join(_lines(source)[start - 1 : end])
        helpers.insert(0, _formatted(segment, path))
        todo += sorted(_names_in(segment))
    return "\n\n".join(helpers), imports


def _with_imports(text: str, imports: Sequence[str], path: Path) -> str:
    """Put imports after the module's last one of those at its top; ruff sorts them in."""
    at = 0
    for node in ast.parse(text).body:
        is_doc = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            at = _lines_of(node)[1]
        elif not is_doc:
            break
    lines = _lines(text)
    lines.insert(at, "".join(f"{line}\n" for line in sorted(imports)))
    return _ruff(["check", "--quiet", "--select", "I", "--fix"], "".join(lines), path)


def _formatted(source: str, path: Path, inside: bool = False) -> str:
    """Format a piece as upstream does; inside a class, where ``inside`` says so."""
    source = textwrap.dedent(source)
    if inside:
        source = "class _:\n" + textwrap.indent(source, "    ")
    source = _ruff(["format", "--quiet"], source, path)
    return source.split("\n", 1)[1] if inside else source


def _ruff(arguments: List[str], text: str, path: Path) -> str:
    try:
        from ruff.__main__ import find_ruff_bin
    except ImportError:
        raise Failure(
            "export-diff needs more: pip install '.[testbed]' in this package's source folder"
        ) from None
    command = [find_ruff_bin(), *arguments, "--stdin-filename", str(path), "-"]
    # From the tree's root: ruff looks there for what is the tree's own.
    root = next(folder for folder in path.parents if (folder / "wandb" / "__init__.py").is_file())
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, encoding="utf-8", cwd=root
    )
    if done.returncode and not done.stdout:
        raise Failure(f"ruff, on {path.name}: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout


def applied(tree: Path, folder: Path) -> Optional[Path]:
    """Copy a tree's Python files with the diff applied; None where it changes nothing.

    Args:
        tree: The source tree.
        folder: Where to; it must not exist.
    """
    new = changed(tree)
    for source in (tree / "wandb").rglob("*.py"):
        target = folder / source.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = new.get(source.relative_to(tree).as_posix())
        target.write_bytes(text.encode("utf-8") if text else source.read_bytes())
    return folder if new else None
