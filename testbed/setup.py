"""What the package's setup.py says for both distributions; the rest is in pyproject.toml."""

import email
import runpy
from pathlib import Path

from setuptools import setup

here = Path(__file__).resolve().parent
if (here / "PKG-INFO").is_file():  # an sdist lies alone, but has all of it in this file
    made = email.message_from_string((here / "PKG-INFO").read_text("utf-8"))
    version, description = made["Version"], made.get_payload()
    project_urls = dict(url.split(", ", 1) for url in made.get_all("Project-URL"))
else:
    package = runpy.run_path(str(here.parent / "setup.py"))
    version, description = package["VERSION"], package["description"]("testbed/README.md")
    project_urls = package["PROJECT_URLS"]

setup(
    version=version,
    long_description=description,
    long_description_content_type="text/markdown",
    project_urls=project_urls,
    license="MIT",
    license_files=["LICENSE"],
    # Its probes run the package's code and know it in detail: any other version may not fit.
    install_requires=[f"wandb-ddp-patch=={version}", "jinja2", "rich", "ruff", "uv"],
)
