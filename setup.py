"""The package's metadata, and its start-up files; the tools' settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import Distribution, find_packages, setup

from distutils.command.install_data import install_data  # isort: skip  # setuptools' own

here = Path(__file__).parent
version = re.search(
    r'^__version__ = "(.+)"$', (here / "wandb_ddp_patch" / "__init__.py").read_text("utf-8"), re.M
)
assert version


class InstallData(install_data):
    """Puts data files beside the packages, where Python looks for start-up files."""

    def finalize_options(self):
        self.set_undefined_options("install", ("install_lib", "install_dir"))
        super().finalize_options()


class DistributionWithData(Distribution):
    """Makes editable installs have data files, which setuptools leaves out otherwise."""

    def has_data(self):
        return self.has_data_files()


setup(
    name="wandb-ddp-patch",
    version=version.group(1),
    description="Make Weights & Biases objects survive multi-process training",
    long_description=(here / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
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
            "pytest-xdist",
            "ruff",
            "scikit-learn",
            "torch",
            "tqdm",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
