"""Python source as lines and as syntax: where in a text something stands."""

from __future__ import annotations

import ast
import re
import textwrap
from typing import Any, Dict, List, Set, Tuple


def lines(text: str) -> List[str]:
    """Split a text as ast counts its lines, line ends included."""
    # str.splitlines() knows of more line ends than ast does.
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def lines_of(node: Any) -> Tuple[int, int]:
    """Give a node's first line, decorators included, and its last."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return first, node.end_lineno


def members(target: Any) -> Dict[str, ast.stmt]:
    """Give the methods and the plain assignments in a class's body."""
    members: Dict[str, ast.stmt] = {}
    for node in target.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            members[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            members[node.targets[0].id] = node
    return members


def top_level(module: ast.Module) -> Dict[str, ast.stmt]:
    """Give what a module's own statements bind."""
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


def names_in(source: str) -> Set[str]:
    """Give the names that a piece of source reads."""
    nodes = ast.walk(ast.parse(textwrap.dedent(source)))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
