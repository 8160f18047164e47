"""What people do with each framework and wandb, without the patch and with it.

Each is a script that checks what it can by itself; what it logs is counted afterwards, in
the run's file.
"""

import re

import arms
import pytest

LIGHTNING, TRAINER, OTHERS = "use_lightning.py", "use_transformers.py", "use_others.py"
OWNER = {"owner": 1}

# Framework, what is done, the script with its arguments, and the rows that it logs.
USES = [
    *(
        ("Lightning", f"fit() with WandbLogger, {method}", [LIGHTNING, "fit", method], {"loss": 4})
        for method in ("ddp_spawn", "ddp_fork", "ddp_notebook")
    ),
    *(
        (
            "Lightning",
            f"each rank logs to the run held by its callback, {method}",
            [LIGHTNING, "fit_with_the_run", method],
            {"rank 0": 4, "rank 1": 4},
        )
        for method in ("ddp_spawn", "ddp_fork")
    ),
    *(
        (
            "Lightning",
            f'logger.watch(model, log="all"), {method}',
            [LIGHTNING, "watch", method],
            {"loss": 4, "gradients": 1, "parameters": 1},
        )
        for method in ("ddp_spawn", "ddp_fork")
    ),
    (
        "Lightning",
        "logger.watch() in rank 0's on_fit_start, ddp_spawn",
        [LIGHTNING, "watch_in_rank_0", "ddp_spawn"],
        {"loss": 4, "gradients": 4, "parameters": 4},
    ),
    (
        "Lightning",
        "save_hyperparameters() with a config, then load_from_checkpoint()",
        [LIGHTNING, "checkpoint"],
        {},
    ),
    ("Lightning", "read back CSVLogger's hparams.yaml", [LIGHTNING, "hparams_yaml"], {}),
    ("transformers", "Trainer reports to wandb", [TRAINER, "train"], {"train": 3}),
    (
        "transformers",
        "copy and pickle WandbCallback",
        [TRAINER, "copy_callback"],
        {"train": 3},
    ),
    (
        "transformers",
        "WANDB_WATCH=all, save the whole model",
        [TRAINER, "save_watched"],
        {"train": 3},
    ),
    *(
        (
            "transformers",
            f"WANDB_WATCH=all, send the model to workers, one continues training, {method}",
            [TRAINER, "watched_in_workers", method],
            {"train": 103, "gradients": 1, "parameters": 1, "rank 0": 1, "rank 1": 1},
        )
        for method in ("spawn", "forkserver")
    ),
    (
        "transformers",
        "WANDB_WATCH=all, in the ranks of notebook_launcher(), with the parent's run",
        [TRAINER, "watched_in_ranks"],
        {"train": 100, "gradients": 1, "parameters": 1, "rank 0": 1, "rank 1": 1},
    ),
    *(
        (
            "transformers",
            f"send a WandbCallback to workers, where it logs to the passed run, {method}",
            [TRAINER, "callback_in_workers", method],
            {"train": 3, "rank 0": 1, "rank 1": 1},
        )
        for method in ("spawn", "fork")
    ),
    *(
        (
            "Accelerate",
            f"{launcher}() with a tracker, the passed run and the config",
            ["use_accelerate.py", launcher],
            {"loss": 4, "rank 0": 1, "rank 1": 1},
        )
        for launcher in ("notebook_launcher", "debug_launcher")
    ),
    (
        "Ray",
        "Tune: a trial uses its own run from setup_wandb() and the passed run",
        ["use_ray.py", "tune_setup_wandb"],
        {"own": 6, "own by wandb.log": 6, "passed": 6},
    ),
    (
        "Ray",
        "Train: each rank logs to the passed run and calls wandb.finish()",
        ["use_ray.py", "train_with_the_run"],
        {"rank 0": 3, "rank 1": 3},
    ),
    (
        "Ray",
        "actors that hold the run log in several tasks, then are killed",
        ["use_ray.py", "actors"],
        {"actor 0": 3, "actor 1": 3},
    ),
    *(
        (
            "Stable-Baselines3",
            f"SubprocVecEnv's environments log, WandbCallback watches the policy, {method}",
            [OTHERS, "stable_baselines", method],
            {"step of an environment": 16, "gradients": 1},
        )
        for method in ("spawn", "forkserver", "fork")
    ),
    (
        "skorch",
        "WandbLogger in a grid search with two jobs",
        [OTHERS, "skorch"],
        {"train_loss": 12},
    ),
    *(
        (
            "ignite",
            f"{logger} logs in both ranks, {method}",
            [OTHERS, "ignite", method],
            {"rank 0": 3, "rank 1": 3},
        )
        for method, logger in [
            ("spawn", "WandBLogger(init=False), created by each rank,"),
            ("fork", "the parent's WandBLogger"),
        ]
    ),
]
PACKAGES = {
    "Lightning": ["lightning"],
    "transformers": ["transformers", "accelerate"],
    "Accelerate": ["accelerate"],
    "Ray": ["ray"],
    "Stable-Baselines3": ["stable-baselines3"],
    "skorch": ["skorch", "scikit-learn"],
    "ignite": ["pytorch-ignite"],
}


@pytest.mark.parametrize(
    ("framework", "what", "script", "rows"),
    [pytest.param(*use, id=re.sub(r"\W+", "-", f"{use[0]} {use[1]}")) for use in USES],
)
def test_it_works_and_every_row_arrives(tmp_path, framework, what, script, rows):
    env = {"WANDB_WATCH": "all"} if "WANDB_WATCH" in what else {}
    found = {}
    for arm in (arms.WITHOUT, arms.WITH):
        ended = arms.run(tmp_path / arm, arm, *script, **env)
        found[arm] = arms.judge(tmp_path / arm, ended, {**rows, **OWNER})
    arms.keep(
        f"{framework} {what}",
        PACKAGES[framework],
        framework=framework,
        what=what,
        without=found[arms.WITHOUT],
        found=found[arms.WITH],
    )
    assert found[arms.WITH] == "yes", f"{arms.rows(tmp_path / arms.WITH)}\n{ended.output}"
