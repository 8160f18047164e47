"""Python source as lines and as syntax: where in a text something stands."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any, Dict, List, Set, Tuple, Union

from wandb_ddp_patch.errors import CommandError

if TYPE_CHECKING:
    from typing_extensions import TypeGuard


def lines(text: str) -> List[str]:
    """Split a text as ast counts its lines, line ends included."""
    # Not str.splitlines(): it also splits at line ends that ast does not count, such as \x0c.
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def lines_of(node: Any) -> Tuple[int, int]:
    """Return a node's first line, decorators included, and its last."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return first, node.end_lineno


def start_of(node: Any, text: List[str]) -> int:
    """Return a node's first line, or that of the comment right above it."""
    start, _ = lines_of(node)
    while start > 1 and text[start - 2].lstrip().startswith("#"):
        start -= 1
    return start


def members(target: Any) -> Dict[str, ast.stmt]:
    """Return the methods and the plain assignments in a class's body, by name."""
    members: Dict[str, ast.stmt] = {}
    for node in target.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            members[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            members[node.targets[0].id] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            members[node.target.id] = node
    return members


def is_stub(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    """Return True if only the decorators of a function matter: its body is an ellipsis."""
    if not isinstance(node, ast.FunctionDef) or len(node.body) != 1:
        return False
    (body,) = node.body
    return isinstance(body, ast.Expr) and getattr(body.value, "value", "") is Ellipsis


def bound(node: ast.stmt) -> List[str]:
    """Return the names that a statement binds, imports aside."""
    if isinstance(node, ast.Assign):
        return [n.id for n in node.targets if isinstance(n, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    name = getattr(node, "name", None)
    return [name] if name else []


def top_level(module: ast.Module) -> Dict[str, ast.stmt]:
    """Return the top-level statements of a module by the names that they bind."""
    names: Dict[str, ast.stmt] = {}
    for node in module.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((_alias(alias), node) for alias in node.names)
        names.update((name, node) for name in bound(node))
    return names


def _alias(alias: ast.alias) -> str:
    return (alias.asname or alias.name).split(".")[0]


def import_lines(node: Union[ast.Import, ast.ImportFrom], names: Set[str]) -> List[str]:
    """Return an import's lines, one for each name that is not yet bound."""
    new = [alias for alias in node.names if _alias(alias) not in names]
    if isinstance(node, ast.Import):
        return [f"import {alias.name}" for alias in new]
    module = "." * node.level + (node.module or "")
    return [f"from {module} import {alias.name}" for alias in new]


def forms(module: ast.Module) -> Dict[str, Dict[str, List[str]]]:
    """Return the forms of each class's members; a function's forms are under the key ''."""
    found: Dict[str, Dict[str, List[str]]] = {}
    for node in module.body:
        for name in bound(node):
            kinds = found.setdefault(name, {})
            named = members(node) if isinstance(node, ast.ClassDef) else {"": node}
            for member, form in named.items():
                kinds.setdefault(member, []).append(ast.dump(form))
    return found


def parsed(text: str, file: str) -> ast.Module:
    """Parse a file's text.

    Raises:
        CommandError: It is no Python; the message names file and line.
    """
    try:
        return ast.parse(text)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise CommandError(f"{file}{where}: {error.msg}") from None
    except ValueError as error:
        raise CommandError(f"{file}: {error}") from None


def with_quoted_annotations(source: str) -> str:
    """Quote the annotations that an old Python would evaluate, and fail at."""
    module = ast.parse(source)
    found: List[Any] = []
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            every = [*node.args.args, *node.args.kwonlyargs]
            found += [node.returns, *(argument.annotation for argument in every)]
        elif isinstance(node, (ast.Module, ast.ClassDef)):
            found += [part.annotation for part in node.body if isinstance(part, ast.AnnAssign)]
    text = lines(source)
    for node in sorted(filter(None, found), key=lambda n: (n.lineno, n.col_offset), reverse=True):
        if isinstance(node, (ast.Name, ast.Constant)) and getattr(node, "id", "") in (*_PLAIN, ""):
            continue
        line = text[node.lineno - 1]
        start, end = node.col_offset, node.end_col_offset
        text[node.lineno - 1] = f'{line[:start]}"{line[start:end]}"{line[end:]}'
    return "".join(text)


# What any Python can evaluate there.
_PLAIN = ("Any", "bool", "dict", "int", "object", "str")
