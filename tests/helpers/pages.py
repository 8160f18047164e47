"""Reads the repository's Markdown: its links, its headings, and its blocks of code.

What is said of a block of code is said by a comment on the line before it, which GitHub does
not show: ``<!-- run -->``, ``<!-- run, and it fails -->``, ``<!-- run by FILE -->``.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Set, Tuple

from wandb_ddp_patch import cli, probes

ROOT = Path(__file__).resolve().parents[2]
MADE = ("build", "dist", "quick", "wandb")  # folders of a working copy that hold no pages
RUN, FAILS, ELSEWHERE = "run", "run, and it fails", "run by "

_FENCE = re.compile(r"[\s>]*```(\w*)\s*")
_MARK = re.compile(r"[\s>]*<!-- (run\b.*?) -->\s*")
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(\s*([^)\s]+)[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.M)
# Programs of others, about which nothing is checked.
_OTHERS = ("cd", "git", "jupyter", "mpiexec", "pip", "ruff", "torchrun", "uv")
_PYTHONS = ("python", "python3", ".venv/bin/python")
# With what an inline piece of code begins that is a command.
_SCRIPTS = (".ci/run", ".ci/nightly", ".ci/release-check")
_COMMANDS = ("make", "wandb-ddp-patch", "pip", *_SCRIPTS, *_PYTHONS)


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Attributes:
        line: The number of its first line.
        language: What is written after its first fence.
        text: The code.
        mark: What the comment before it says, or the empty string.
    """

    line: int
    language: str
    text: str
    mark: str


def pages(root: Path = ROOT) -> List[Path]:
    """Find every Markdown file that is the repository's own."""

    def foreign(part: str) -> bool:
        return part in MADE or part.startswith(".") or part.endswith(".egg-info")

    found = root.rglob("*.md")
    return sorted(page for page in found if not any(map(foreign, page.relative_to(root).parts)))


def split(text: str) -> Tuple[str, List[Block], List[str]]:
    """Take a page apart.

    Returns:
        Its prose, its blocks of code, and what is wrong with the marks of blocks.
    """
    prose: List[str] = []
    found: List[Block] = []
    wrong: List[str] = []
    lines = iter(enumerate(text.splitlines(), 1))
    mark = ""  # of the line before
    for number, line in lines:
        fence, comment = _FENCE.fullmatch(line), _MARK.fullmatch(line)
        if mark and not fence:
            wrong.append(f"line {number}: <!-- {mark} --> stands before no block of code")
        if fence:
            code = "".join(_until_fence(lines))
            found.append(Block(number + 1, fence[1], code, mark))
        elif not comment:
            prose.append(line)
        mark = comment[1] if comment else ""
        if mark and mark not in (RUN, FAILS) and not mark.startswith(ELSEWHERE):
            wrong.append(f"line {number}: what does <!-- {mark} --> mean?")
    return "\n".join(prose) + "\n", found, wrong


def _until_fence(lines: Iterator[Tuple[int, str]]) -> Iterator[str]:
    for _, line in lines:
        if _FENCE.fullmatch(line):
            return
        yield re.sub(r"^> ?", "", line) + "\n"


# --- links ------------------------------------------------------------------


def anchors(text: str) -> Set[str]:
    """Name the anchors that GitHub gives to a page's headings."""
    found: Dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.*?)[ #]*$", split(text)[0], re.M):
        shown = re.sub(r"!?\[(.*?)\]\(.*?\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    return set(found)


def broken_links(page: Path) -> List[str]:
    """Say which relative links of a page, and which anchors, lead nowhere."""
    text = page.read_text("utf-8")
    broken = []
    for one, other in _LINK.findall(_CODE.sub("", split(text)[0])):
        link = one or other
        if re.match(r"\w+:", link):
            continue  # to somewhere else: not without network
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if file.startswith("/") or not target.exists():
            broken.append(f"{link}: there is no such file")
        elif anchor and anchor not in anchors(target.read_text("utf-8")):
            broken.append(f"{link}: there is no such heading")
    return broken


# --- commands ---------------------------------------------------------------


def wrong_commands(page: Path, root: Path = ROOT) -> List[str]:
    """Say which commands of a page, in its blocks and in its prose, can't be right."""
    prose, found, wrong = split(page.read_text("utf-8"))
    for block in found:
        if block.language != "sh":
            continue
        here: Optional[Path] = root
        for words in _commands(block.text):
            if words[0] == "cd":
                here = None  # in another folder than the repository's
            why = _wrong(words, here)
            wrong += [f"line {block.line}: {' '.join(words)}: {why}"] if why else []
    for code in _CODE.findall(prose):
        if len(code.split()) > 1 and code.split()[0] in _COMMANDS:
            for words in _commands(" ".join(code.split())):
                why = _wrong(words, root)
                # Prose may name a command without what it is given.
                if why and "are required" not in why:
                    wrong.append(f"`{' '.join(words)}`: {why}")
    for block in found:
        if block.mark.startswith(ELSEWHERE):
            file = root / block.mark[len(ELSEWHERE) :]
            wrong += [] if file.is_file() else [f"line {block.line}: there is no {file.name}"]
    return wrong


def _commands(text: str) -> Iterator[List[str]]:
    """Take apart what a shell is given, without variables and files that are written to."""
    for line in text.replace("\\\n", " ").splitlines():
        words: List[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if not set(word) <= set(";|&"):
                words.append(word)
                continue
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if ">" in words:
                del words[words.index(">") :]
            if words:
                yield words
            words = []


def _wrong(words: List[str], root: Optional[Path]) -> str:
    """Say why a command can't be right, or nothing.

    Args:
        words: The command, of one word or more.
        root: The repository, or None where the command is run in another folder.
    """
    program, *rest = words
    if program in _PYTHONS and rest[:1] == ["-m"]:
        program, rest = {"wandb_ddp_patch": "wandb-ddp-patch"}.get(rest[1], rest[1]), rest[2:]
        if program not in ("wandb-ddp-patch", "wandb_ddp_patch.probes", "pytest", "pip"):
            return "what module is that?"
    if program == "wandb-ddp-patch":
        return _refused(rest)
    if program == "wandb_ddp_patch.probes":
        names = {name for name in rest if name not in ("NAME", "PROBE", "--json")}
        return "there is no such probe" if names - set(probes.PROBES) else ""
    if program not in (*_OTHERS, *_PYTHONS, "pytest", "make", *_SCRIPTS):
        return "what command is that?"
    return "" if root is None else _missing(program, rest, root)


def _refused(arguments: List[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli._parser().parse_args(arguments)
        except SystemExit as end:
            return said.getvalue().strip() if end.code else ""
    return ""


def _missing(program: str, arguments: List[str], root: Path) -> str:
    """Say what of a command is not in the repository, or nothing."""
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (root / "Makefile").read_text("utf-8"), re.M)
        unknown = sorted(set(arguments) - set(targets))
        return f"no target: {', '.join(unknown)}" if unknown else ""
    if program.startswith(".ci/"):
        return "" if (root / program).is_file() else "there is no such file"
    if program == "pip":
        wanted = {
            one
            for extras in re.findall(r"\.\[(.*?)\]", " ".join(arguments))
            for one in extras.split(",")
        }
        return f"no extra: {', '.join(wanted - _extras(root))}" if wanted - _extras(root) else ""
    files = [word for word in arguments if word.endswith(".py") and "/" in word]
    for file in files:
        if not (root / file).is_file():
            return f"there is no {file}"
        options = [word for word in arguments if word.startswith("--")]
        for option in options if program in _PYTHONS else []:
            if f'"{option}"' not in (root / file).read_text("utf-8"):
                return f"{file} has no {option}"
    return ""


def _extras(root: Path) -> Set[str]:
    for node in ast.walk(ast.parse((root / "setup.py").read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "extras_require":
            assert isinstance(node.value, ast.Dict)
            return {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
    return set()
