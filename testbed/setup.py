"""The version, and the dependency on the package at that version; the rest is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

here = Path(__file__).resolve().parent
# The number is in one place, the package. An sdist lies alone, but has it in its PKG-INFO.
source, pattern = here.parent / "wandb_ddp_patch" / "__init__.py", r'^__version__ = "(.+)"$'
if (here / "PKG-INFO").is_file():
    source, pattern = here / "PKG-INFO", r"^Version: (.+)$"
version = re.search(pattern, source.read_text("utf-8"), re.M)
assert version

setup(
    version=version.group(1),
    license="MIT",
    # Its probes run the package's code and know it in detail: any other version may not fit.
    install_requires=[f"wandb-ddp-patch=={version.group(1)}", "jinja2", "rich", "ruff", "uv"],
)
