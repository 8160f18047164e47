"""What people see of a testbed: the matrix in the terminal, Markdown, JSON and a page.

Each form is a file here; what all of them say is in ``model.py``.
"""

from .files import write
from .html import html
from .markdown import markdown
from .model import summary
from .progress import Live
from .text import text

__all__ = ["Live", "html", "markdown", "summary", "text", "write"]
