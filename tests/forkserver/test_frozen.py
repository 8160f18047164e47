"""Programs that are frozen, by PyInstaller for one: what is imported can be seen, or is missed.

tests/frameworks/test_frozen_app.py tries it with PyInstaller.
"""

import modulefinder
import shutil

from conftest import ROOT

PACKAGE = ROOT / "wandb_ddp_patch"
# What a program of a user's needs; the rest is for the command line.
ROOMS = ("forkserver", "handover", "patches", "runs", "transports")


def test_all_that_a_program_needs_is_imported_by_name(tmp_path):
    script = tmp_path / "app.py"
    script.write_text("import wandb_ddp_patch\n")
    finder = modulefinder.ModuleFinder(path=[str(ROOT)])
    finder.run_script(str(script))
    files = [
        PACKAGE / "worker.py",
        *PACKAGE.glob("_*.py"),
        *(file for room in ROOMS for file in PACKAGE.glob(f"{room}/**/*.py")),
    ]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files}
    names = {name.replace(".__init__", "") for name in names}
    # These begin processes of their own, the second of them never from a frozen program.
    names -= {"wandb_ddp_patch.__main__", "wandb_ddp_patch.forkserver.early_server"}
    assert names - finder.modules.keys() == set()


def test_a_part_that_is_missing_is_said_and_the_rest_works(fresh, tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "wandb_ddp_patch")
    (tmp_path / "wandb_ddp_patch" / "patches" / "yaml.py").unlink()
    out = fresh(
        """
        import warnings
        import wandb_ddp_patch
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import copy, yaml, wandb
        print(copy.copy(wandb.Config()))
        said = [str(each.message) for each in caught]
        (warning,) = (each for each in said if "wandb_ddp_patch" in each)
        (skipped,) = (each for each in wandb_ddp_patch.status() if each.state == "skipped")
        print(skipped.why in warning, "yaml" in skipped.why)
        """
    )
    assert out == "{}\nTrue True\n"
