"""The package's metadata, and its start-up files; the tools' settings are in pyproject.toml."""

import os
import posixpath
import re
from pathlib import Path

from setuptools import Distribution, find_packages, setup

from distutils.command.install_data import install_data  # isort: skip  # setuptools' own

# Set this once the repository is public: the pages on PyPI link to it.
REPOSITORY = "https://github.com/wandb-ddp-patch/wandb-ddp-patch"

here = Path(__file__).resolve().parent
if (here / "PKG-INFO").is_file():
    # In an sdist, which pip may build on the runner of somebody else's repository.
    made = (here / "PKG-INFO").read_text("utf-8")
    REPOSITORY = re.findall(r"^Project-URL: Source, (.+)$", made, re.M)[0]
elif os.environ.get("GITHUB_REPOSITORY"):
    REPOSITORY = "https://github.com/" + os.environ["GITHUB_REPOSITORY"]

found = re.search(
    r'^__version__ = "(.+)"$', (here / "wandb_ddp_patch" / "__init__.py").read_text("utf-8"), re.M
)
assert found
VERSION = found.group(1)
TAG = f"v{VERSION}"
PROJECT_URLS = {
    "Documentation": f"{REPOSITORY}/tree/{TAG}/docs",
    "Source": REPOSITORY,
    "Issues": f"{REPOSITORY}/issues",
    "Changelog": f"{REPOSITORY}/blob/HEAD/CHANGELOG.md",
}


def description(page):
    """Return the text of a page with absolute links, as PyPI has no other files.

    Args:
        page: Its path in the repository, with slashes.
    """

    def absolute(match):
        before, link = match.groups()
        if re.match(r"[a-z]+:", link):
            return match[0]
        path, hash_sign, anchor = link.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        kind = "raw" if path.endswith((".gif", ".jpg", ".png", ".svg")) else "blob"
        return f"{before}{REPOSITORY}/{kind}/{TAG}/{path}{hash_sign}{anchor}"

    # Every second part is code, in which brackets mean something else.
    text = (here / page).read_text("utf-8")
    parts = re.split(r"(^```.*?^```|`[^`\n]+`)", text, flags=re.M | re.S)
    link = r"""(\]\(|^\[[^\]]+\]: |(?:href|src|srcset)=["'])([^)\s"']+)"""
    parts[::2] = [re.sub(link, absolute, part, flags=re.M) for part in parts[::2]]
    return "".join(parts)


class InstallData(install_data):
    """Puts data files beside the packages, where Python looks for start-up files."""

    def finalize_options(self):
        self.set_undefined_options("install", ("install_lib", "install_dir"))
        super().finalize_options()


class DistributionWithData(Distribution):
    """Makes editable installs have data files, which setuptools leaves out otherwise."""

    def has_data(self):
        return self.has_data_files()


METADATA = dict(
    name="wandb-ddp-patch",
    version=VERSION,
    description="Make Weights & Biases objects survive multi-process training",
    long_description=description("README.md"),
    long_description_content_type="text/markdown",
    project_urls=PROJECT_URLS,
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["wandb_ddp_patch", "wandb_ddp_patch.*"]),
    package_data={"wandb_ddp_patch": ["py.typed"]},
    data_files=[("", sorted(map(str, Path("startup").glob("wandb_ddp_patch*"))))],
    cmdclass={"install_data": InstallData},
    distclass=DistributionWithData,
    entry_points={"console_scripts": ["wandb-ddp-patch = wandb_ddp_patch.cli:main"]},
    python_requires=">=3.8",
    install_requires=["wandb>=0.10.23"],
    extras_require={
        "torch": ["torch"],
        "demo": ["scikit-learn", "torch", "tqdm"],
        "bench": [
            "coverage",
            "easydict",
            "loky",
            "matplotlib",
            "ml_collections",
            "numpy",
            "omegaconf",
            "pyperf",
            "setuptools",
            "torch",
            "tqdm",
        ],
        "frameworks": [
            "accelerate",
            "cloudpickle",
            "datasets",
            "dill",
            "distributed",
            "hydra-core",
            "hydra-joblib-launcher",
            "hydra-submitit-launcher",
            "ipykernel",
            "joblib",
            "lightning",
            "mpi4py; sys_platform == 'linux'",
            "mpich; sys_platform == 'linux'",
            "nbclient",
            "optuna",
            "pillow",  # for wandb.Image
            "pyinstaller",
            "pytest",
            "pytest-instafail",
            "pytest-xdist",
            "pytorch-ignite",
            "pyyaml",
            "ray[train,tune]",
            "scikit-learn",
            "skorch",
            "stable-baselines3",
            "torch",
            "tqdm",
            "transformers",
        ],
        "test": [
            "billiard",
            "check-jsonschema",  # for make lint
            "cloudpickle",
            "dill",
            "hypothesis",
            "import-linter",
            "joblib",
            "multiprocess",
            "mypy",
            "numpy",  # torch warns without it
            "pytest",
            "pytest-instafail",
            "pytest-xdist",
            "ruff",
            "scikit-learn",
            "torch",
            "tqdm",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: Dask",
        "Framework :: Jupyter",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: Microsoft :: Windows",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(8, 16)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)

if __name__ == "__main__":  # testbed/setup.py uses what is above
    setup(**METADATA)
