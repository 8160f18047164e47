"""What comes along with a graft's source: the helpers and imports that it names."""

from __future__ import annotations

import ast
import builtins
import inspect
from pathlib import Path
from types import ModuleType
from typing import List, Sequence, Set, Tuple, Union

from ...grafts import _names
from . import style, syntax
from .splices import HOMES


def wanted(
    names: Set[str], tree: ast.Module, graft: ModuleType, file: str, path: Path
) -> Tuple[str, List[str]]:
    """Find what names stand for in a graft's module, where a tree's file has none such.

    Args:
        names: Those that the graft's source uses.
        tree: The file in the tree.
        graft: The graft's module.
        file: The file's path in the tree.
        path: The file's path here.

    Returns:
        The helpers' source, and lines that import the rest.
    """
    imports: List[str] = []
    helpers: List[str] = []
    todo, seen = sorted(names), {*syntax.top_level(tree), *vars(builtins)}
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        home = HOMES.get(name, file)
        if home != file:
            imports.append(f"from {home[:-3].replace('/', '.')} import {name}")
            continue
        source = inspect.getsource(_names if name in HOMES else graft)
        node = syntax.top_level(ast.parse(source)).get(name)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports.append(_import_line(node, name))
        elif node is not None:  # else a local name
            start, end = syntax.lines_of(node)
            segment = "".join(syntax.lines(source)[start - 1 : end])
            helpers.insert(0, style.formatted(segment, path))
            todo += sorted(syntax.names_in(segment))
    return "\n\n".join(helpers), imports


def _import_line(node: Union[ast.Import, ast.ImportFrom], name: str) -> str:
    (alias,) = [a for a in node.names if (a.asname or a.name).split(".")[0] == name]
    if isinstance(node, ast.ImportFrom):
        return f"from {node.module} import {alias.name}"
    return f"import {alias.name}"


def with_imports(text: str, imports: Sequence[str], path: Path) -> str:
    """Put imports after the module's last one of those at its top; ruff sorts them in."""
    at = 0
    for node in ast.parse(text).body:
        is_doc = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            at = syntax.lines_of(node)[1]
        elif not is_doc:
            break
    lines = syntax.lines(text)
    lines.insert(at, "".join(f"{line}\n" for line in sorted(imports)))
    return style.with_sorted_imports("".join(lines), path)
