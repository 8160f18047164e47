"""What people see of a testbed: the matrix in the terminal, Markdown, JSON and a page.

Each form is a file here; what all of them say is in ``content.py``.
"""

from .content import summary
from .files import write
from .lines import text
from .live import Live
from .md import markdown
from .page import html

__all__ = ["Live", "html", "markdown", "summary", "text", "write"]
