"""One graft's source, put into the text of the file that has its class."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import tokenize
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from ...errors import Failure
from ...grafts import config
from . import along, style, syntax
from .splices import DISABLED, Splice

# Lines from one to another, and what takes their place.
Edit = Tuple[int, int, str]


def spliced(splice: Splice, text: str, path: Path) -> str:
    """Put a graft into the text of its file.

    Args:
        splice: The graft and its place.
        text: The file's.
        path: The file's, for ruff.

    Raises:
        Failure: The file is no Python, or has no class that the graft fits.
    """
    module = _parsed(text, splice.file)
    target = next((n for n in module.body if getattr(n, "name", "") == splice.target), None)
    if target is None and splice.file == DISABLED:
        return text
    target = _fitting(splice, target)
    if isinstance(target, ast.ClassDef) and syntax.members(target):
        sources = _graft_members(splice.body, text, target)
        edits = _into_class(text, target, sources, path)
    else:
        sources = {splice.target: inspect.getsource(splice.body)}
        edits = [(*syntax.lines_of(target), style.formatted(sources[splice.target], path))]
    names = set().union(*map(syntax.names_in, sources.values()))
    graft = sys.modules[splice.body.__module__]
    helpers, imports = along.wanted(names, module, graft, splice.file, path)
    if helpers:
        start, _ = syntax.lines_of(target)
        edits.append((start, start - 1, helpers + "\n\n"))
    text = _edited(text, edits)
    return along.with_imports(text, imports, path) if imports else text


def _parsed(text: str, file: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise Failure(f"{file}{where}: {error.msg}") from None
    except ValueError as error:
        raise Failure(f"{file}: {error}") from None


def _fitting(splice: Splice, target: Optional[ast.stmt]) -> ast.stmt:
    """Return the target, if it is one that the graft fits."""
    is_class = isinstance(target, ast.ClassDef)
    members = set(syntax.members(target)) if is_class else set(splice.needs)
    lacks = [name for name in splice.needs if name not in members]
    if target is None or lacks or (splice.needs and not is_class):
        what = f"no {', '.join(lacks)} in" if lacks else "no"
        raise Failure(
            f"{splice.file} has {what} class {splice.target}: the grafts do not fit this tree"
        )
    return target


def _edited(text: str, edits: List[Edit]) -> str:
    lines = syntax.lines(text)
    for start, end, new in sorted(edits, reverse=True):
        lines[start - 1 : end] = [new]
    return "".join(lines)


def _into_class(text: str, target: ast.ClassDef, sources: Dict[str, str], path: Path) -> List[Edit]:
    """Say which lines of a class change so that it has the members whose sources these are."""
    here = syntax.members(target)
    edits, new = [], []
    for name, source in sources.items():
        formatted = style.formatted(source, path, inside=True)
        if name in here:
            formatted = _with_signature(formatted, here[name], text)
            edits.append((*syntax.lines_of(here[name]), formatted))
        else:
            new.append(formatted)
    if new:
        end = syntax.lines_of(target)[1]
        edits.append((end + 1, end, "".join("\n" + member for member in new)))
    return edits


def _graft_members(body: type, text: str, target: ast.ClassDef) -> Dict[str, str]:
    found = _sources(body)
    if body is config.Config:
        # As at run time: releases whose own class raises KeyError go on to do so.
        own = syntax.members(target)["__getattr__"]
        if "AttributeError" not in (ast.get_source_segment(text, own) or ""):
            found.update(_sources(config.ConfigWithKeyError))
    return found


def _sources(body: type) -> Dict[str, str]:
    source = textwrap.dedent(inspect.getsource(body))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    lines = syntax.lines(source)
    found = {}
    for name, node in syntax.members(tree).items():
        start, end = syntax.lines_of(node)
        found[name] = "".join(lines[start - 1 : end])
    return found


def _with_signature(new: str, old: ast.stmt, text: str) -> str:
    """Keep upstream's annotations, where a method goes on to take what it took."""
    (own,) = ast.parse(textwrap.dedent(new)).body
    if not (isinstance(old, ast.FunctionDef) and isinstance(own, ast.FunctionDef)):
        return new
    if [a.arg for a in own.args.args] != [a.arg for a in old.args.args] or own.decorator_list:
        return new
    start, end = syntax.lines_of(old)
    lines = syntax.lines(text)[start - 1 : end]
    return "".join(lines[: _header(lines)] + syntax.lines(new)[_header(syntax.lines(new)) :])


def _header(lines: List[str]) -> int:
    """Count the lines of a method up to the colon of its signature."""
    depth = 0
    for token in tokenize.generate_tokens(iter(lines).__next__):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
            if token.string == ":" and depth == 0:
                return token.start[0]
    raise AssertionError("a function without a colon")
