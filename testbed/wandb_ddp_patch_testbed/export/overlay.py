"""A part of a file, put into the whole one: members into classes, functions, imports."""

from __future__ import annotations

import ast
from typing import List, Optional, Set, Tuple

from wandb_ddp_patch.errors import CommandError

from . import syntax

# First line, last line, and the text that replaces them.
Edit = Tuple[int, int, str]


class Overlay:
    """A part, and the text of the file into which it is put."""

    def __init__(self, part: str, was: Optional[str], text: str, file: str) -> None:
        """Compare them.

        Args:
            part: What the file is to have.
            was: The forms that replaced parts have had; classes in it must be there.
            text: The file's, with plain line ends.
            file: Its path in the tree, for messages.

        Raises:
            CommandError: The file is no Python, or not what the part fits.
        """
        self._part, self._file, self._text = part, file, text
        self._lines = syntax.lines(text)
        self._here = syntax.top_level(syntax.parsed(text, file))
        self._was = syntax.forms(ast.parse(was or ""))
        self._edits: List[Edit] = []
        self.imports: List[str] = []
        self._lay()

    @property
    def changes(self) -> bool:
        """True if the file lacks anything, imports aside."""
        return bool(self._edits)

    def edited(self) -> str:
        """Return the file's new text, without new imports."""
        lines = self._lines.copy()
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        # Of two at one place, the one that was added last goes in first.
        for start, end, new in sorted(self._edits, key=lambda edit: edit[:2], reverse=True):
            lines[start - 1 : end] = [new]
        return "".join(lines)

    def _lay(self) -> None:
        names: Set[str] = set(self._here)
        last = len(self._lines)
        after: Optional[int] = None
        waiting: List[str] = []
        for node in ast.parse(self._part).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.imports += syntax.import_lines(node, names)
            elif not syntax.bound(node):
                if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
                    self._statement(node, last)
            else:
                (name,) = syntax.bound(node)
                own = self._here.get(name)
                if own is None and name not in self._was:
                    waiting.append(self._source(node))
                elif own is None:
                    raise self._unfit(f"has no {_kind(node)} {name}")
                else:
                    above = syntax.start_of(own, self._lines) - 1
                    self._flush(waiting, above if after is None else after, after is None)
                    self._replace(name, node, own)
                    after = syntax.lines_of(own)[1]
        self._flush(waiting, last if after is None else after, False)

    def _flush(self, waiting: List[str], after: int, above: bool) -> None:
        new = "".join(f"{source}\n\n" if above else f"\n\n{source}" for source in waiting)
        if new:
            self._edits.append((after + 1, after, new))
        waiting.clear()

    def _statement(self, node: ast.stmt, last: int) -> None:
        module = ast.parse(self._text)
        if ast.dump(node) not in map(ast.dump, module.body):
            self._edits.append((last + 1, last, f"\n\n{self._source(node)}"))

    def _replace(self, name: str, node: ast.stmt, own: ast.stmt) -> None:
        known = self._was.get(name, {"": []})
        # What has been a function, or is this change's own, is exchanged as a whole.
        if isinstance(node, ast.ClassDef) and "" not in known:
            if not isinstance(own, ast.ClassDef):
                raise self._unfit(f"has no class {name}")
            self._members(name, node, own)
        elif ast.dump(node) != ast.dump(own):
            self._exchange(name, node, own, known.get("", []))

    def _members(self, kind: str, node: ast.ClassDef, own: ast.ClassDef) -> None:
        here = syntax.members(own)
        after: Optional[int] = None
        new: List[str] = []
        for name, member in syntax.members(node).items():
            known = self._was[kind].get(name, [])
            if name in here:
                above = syntax.start_of(here[name], self._lines) - 1
                self._insert(new, above if after is None else after, after is None)
                after = syntax.lines_of(here[name])[1]
                if syntax.is_stub(member):
                    self._decorate(member, here[name])
                elif ast.dump(member) != ast.dump(here[name]):
                    self._exchange(f"{kind}.{name}", member, here[name], known)
            elif known or syntax.is_stub(member):
                raise self._unfit(f"has no {name} in class {kind}")
            else:
                new.append(self._source(member))
        self._insert(new, syntax.lines_of(own)[1] if after is None else after, False)

    def _decorate(self, stub: ast.FunctionDef, own: ast.stmt) -> None:
        """Put decorators below those that a method has, where it lacks them."""
        has = [ast.dump(decorator) for decorator in getattr(own, "decorator_list", [])]
        for decorator in stub.decorator_list:
            if ast.dump(decorator) not in has:
                source = "".join(syntax.lines(self._part)[decorator.lineno - 1])
                self._edits.append((own.lineno, own.lineno - 1, source))

    def _insert(self, new: List[str], after: int, above: bool) -> None:
        source = "".join(f"{member}\n" if above else f"\n{member}" for member in new)
        if source:
            self._edits.append((after + 1, after, source))
        new.clear()

    def _exchange(self, name: str, node: ast.stmt, own: ast.stmt, known: List[str]) -> None:
        if ast.dump(own) not in known:
            start, _ = syntax.lines_of(own)
            raise CommandError(
                f"{self._file}, line {start}: {name} is neither wandb's nor this change's."
                " Somebody has begun to mend it here, or wandb has changed it: it is left as it"
                " is, and so is the rest"
            )
        self._edits.append((*syntax.lines_of(own), self._source(node)))

    def _source(self, node: ast.stmt) -> str:
        lines = syntax.lines(self._part)
        start, end = syntax.start_of(node, lines), syntax.lines_of(node)[1]
        return "".join(lines[start - 1 : end])

    def _unfit(self, what: str) -> CommandError:
        return CommandError(f"{self._file} {what}: the patches do not fit this tree")


def _kind(node: ast.stmt) -> str:
    return "class" if isinstance(node, ast.ClassDef) else "function"


def with_imports(text: str, imports: List[str]) -> str:
    """Put imports after the module's last one of those at its top; ruff sorts them in."""
    body = ast.parse(text).body
    at = 0
    for node in body:
        is_doc = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_doc or isinstance(node, (ast.Import, ast.ImportFrom)):
            at = syntax.lines_of(node)[1]
        else:
            break
    lines = syntax.lines(text)
    future = [line for line in imports if line.startswith("from __future__")]
    rest = sorted(line for line in imports if line not in future)
    lines.insert(at, "".join(f"{line}\n" for line in rest))
    if future:
        first = body[0] if body else None
        has_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        at = syntax.lines_of(first)[1] if has_doc else 0
        lines.insert(at, "".join(f"\n{line}\n\n" if has_doc else f"{line}\n\n" for line in future))
    return "".join(lines)
