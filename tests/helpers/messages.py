"""The errors and warnings in this package's source, by their texts.

Found are the texts that are passed to what reports them (a function that warns, an exception's
class), and those that go into such a text as its reason: what functions named ``*_problem``,
``_why*`` and the like return, and what variables named ``why``, ``problem`` and the like are set
to. Names of constants count as the text that they stand for.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

ROOT = Path(__file__).resolve().parents[2]

PACKAGE = ROOT / "wandb_ddp_patch"
ANYTHING = "…"  # in place of what an f-string, or %, fills in
# The verdicts of probes, and what doctor prints, are results.
NOT_SCANNED = ("probes/", "doctor_text.py")

REASON = "reason"  # the kind of what is a part of another message
_REPORTERS = re.compile(
    r"_?(warn|warn_once|termwarn|usage_error|unforkable|SelfTestResult|\w*(Error|Transport))"
)
# What tells a worker on another machine something, or warns with a reason: only texts with one
# are passed.
_TELLERS = ("_add_unavailable", "Verdict", "close", "_fail", "_on_error", "_warn_of_loss", "append")
_REASON_FUNCTIONS = re.compile(
    r"\w*_problem|_why\w*|_inactive|_refusal|_unforkable|_because|_import_script"
)
_REASON_NAMES = re.compile(r"why|what|where|reason|problem|error|_GUESSES")
_FEWEST_WORDS = 3


class Message(NamedTuple):
    """A text, and where it is.

    Attributes:
        text: Its words, with ``ANYTHING`` for what is filled in.
        kind: What reports it: the name of a function or class; or ``REASON``.
        place: File and line.
    """

    text: str
    kind: str
    place: str


def scan(package: Path = PACKAGE) -> List[Message]:
    """Return the messages of a package."""
    trees = {
        path.relative_to(package).as_posix(): ast.parse(path.read_text("utf-8"))
        for path in sorted(package.rglob("*.py"))
    }
    constants = {name: dict(_constants(tree)) for name, tree in trees.items()}
    of_any = {key: text for each in constants.values() for key, text in each.items()}
    return [
        Message(text.strip(), kind, f"{name}:{value.lineno}")
        for name, tree in trees.items()
        if not name.startswith(NOT_SCANNED)
        for node in ast.walk(tree)
        for kind, value in _candidates(node)
        for text in _texts(value, {**of_any, **constants[name]})
        if len(re.findall(r"\w+", text)) >= _FEWEST_WORDS
    ]


def _constants(tree: ast.Module) -> Iterator[Tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = _text(node.value)
            if text is not None:
                yield node.targets[0].id, text


def _candidates(node: ast.AST) -> Iterator[Tuple[str, ast.expr]]:
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", "") or getattr(node.func, "id", "")
        is_printed = name == "print" and any(each.arg == "file" for each in node.keywords)
        is_written = name == "write" and "stderr" in ast.dump(node.func)
        if _REPORTERS.fullmatch(name) or is_printed or is_written:
            # Its second argument is what to do about the first.
            for value in node.args[:1] if name == "RunUnreachableError" else node.args:
                yield name, value
        if name in _TELLERS:
            reasons = [each.value for each in node.keywords if each.arg == "reason"]
            yield from ((REASON, value) for value in (*node.args, *reasons))
    elif isinstance(node, ast.FunctionDef) and _REASON_FUNCTIONS.fullmatch(node.name):
        for each in ast.walk(node):
            if isinstance(each, ast.Return) and each.value is not None:
                yield REASON, each.value
    elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        name = getattr(target, "attr", "") or getattr(target, "id", "")
        if _REASON_NAMES.fullmatch(name):
            yield REASON, node.value


def _texts(node: ast.expr, constants: Dict[str, str]) -> Iterator[str]:
    """Yield the texts that an expression may have."""
    if isinstance(node, ast.IfExp):
        parts = [node.body, node.orelse]
    elif isinstance(node, (ast.BoolOp, ast.Dict)):
        parts = node.values
    elif isinstance(node, ast.Name) and node.id in constants:
        parts = []
        yield constants[node.id]
    else:
        parts = []
        text = _text(node)
        if text is not None:
            yield text
    for part in parts:
        yield from _texts(part, constants)


def _text(node: ast.expr) -> Optional[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [each.value if isinstance(each, ast.Constant) else ANYTHING for each in node.values]
        return "".join(map(str, parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        text = _text(node.left)
        return text and re.sub(r"%(\.\d)?[rsdf]", ANYTHING, text)
    return None
