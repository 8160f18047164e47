"""A Hydra application whose task refers to a parcel, as scripts refer to their run."""

import sys
from pathlib import Path

import carried
import hydra
from omegaconf import DictConfig

# Whole: what is relative is looked for in a package, as this is imported.
CONFIG = str(Path(__file__).resolve().parent / "hydra_config")


def launch(launcher, parcel):
    # Defined here, so that it is pickled by value, as what is in a script is.
    @hydra.main(version_base=None, config_path=CONFIG, config_name="config")
    def task(config: DictConfig):
        carried.use(parcel)
        assert config.x in (1, 2)

    out = Path("hydra").resolve()
    sys.argv[1:] = [
        "--multirun",
        f"hydra/launcher={launcher}",
        "x=1,2",
        f"hydra.sweep.dir={out}",
        "hydra.sweep.subdir=${hydra.job.num}",
        "hydra.job.chdir=false",
    ]
    task()
