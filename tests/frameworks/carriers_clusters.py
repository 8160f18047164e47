"""The carriers of what starts workers itself: Ray, dask, Hydra, Optuna, datasets."""

import concurrent.futures
import functools
import importlib
import multiprocessing
from pathlib import Path

import carried

# --- Ray --------------------------------------------------------------------


def with_ray(do):
    @functools.wraps(do)
    def carrier(parcel):
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=True, logging_level="error")
        try:
            do(parcel)
        finally:
            ray.shutdown()

    return carrier


@with_ray
def ray_task(parcel):
    import ray

    ray.get(ray.remote(max_retries=0)(carried.use).remote(parcel))


class Actor:
    def __init__(self, parcel):
        self.parcel = parcel

    def work(self):
        carried.use(self.parcel)


@with_ray
def ray_actor(parcel):
    import ray

    ray.get(ray.remote(Actor).remote(parcel).work.remote())


def trial(config, parcel):
    from ray import tune

    carried.use(parcel)
    tune.report({"score": 1})


@with_ray
def ray_tune(parcel):
    from ray import tune

    tuner = tune.Tuner(
        tune.with_parameters(trial, parcel=parcel),
        param_space={"x": tune.grid_search([1, 2])},
        run_config=tune.RunConfig(storage_path=str(Path("ray").resolve()), verbose=0),
    )
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]


def train_loop(config):
    carried.use(config["parcel"])


@with_ray
def ray_train(parcel):
    from ray import train
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        train_loop,
        train_loop_config={"parcel": parcel},
        scaling_config=train.ScalingConfig(num_workers=2, use_gpu=False),
        run_config=train.RunConfig(storage_path=str(Path("ray").resolve())),
    ).fit()


# --- dask -------------------------------------------------------------------


def dask_submit(parcel):
    from distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster, Client(cluster) as client:
        client.submit(carried.use, parcel, pure=False, retries=0).result()


# --- Hydra's launchers ------------------------------------------------------


def hydra(launcher, parcel):
    """A script in which the task refers to the parcel, as scripts refer to their run."""
    import hydra_app

    hydra_app.launch(launcher, parcel)


# --- Optuna -----------------------------------------------------------------


def objective(parcel, trial):
    carried.use(parcel)
    return trial.suggest_float("x", 0, 1)


def optimize(parcel):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend("journal"))
    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    study.optimize(functools.partial(objective, parcel), n_trials=1)


def optuna_workers(parcel):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        list(pool.map(optimize, [parcel] * 2))


# --- datasets ---------------------------------------------------------------


def map_row(row, parcel):
    carried.use(parcel)
    return row


def datasets_map(parcel):
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"x": [1, 2]})
    rows.map(functools.partial(map_row, parcel=parcel), num_proc=2, load_from_cache_file=False)


CARRIERS = {
    "Ray, remote function": ray_task,
    "Ray, actor": ray_actor,
    "Ray, Tune": ray_tune,
    "Ray, Train": ray_train,
    "dask, Client.submit": dask_submit,
    "Hydra, joblib launcher": functools.partial(hydra, "joblib"),
    "Hydra, submitit launcher": functools.partial(hydra, "submitit_local"),
    "Optuna, study in workers": optuna_workers,
    "datasets, map": datasets_map,
}

# What each imports, once, before the things are carried; and the packages that it is of.
_NEEDS = {
    "Ray": (["ray"], ["ray"]),
    "dask": (["distributed"], ["dask", "distributed"]),
    "Hydra, joblib launcher": (["hydra_app"], ["hydra-core", "hydra-joblib-launcher", "joblib"]),
    "Hydra, submitit launcher": (
        ["hydra_app"],
        ["hydra-core", "hydra-submitit-launcher", "submitit"],
    ),
    "Optuna": (["optuna"], ["optuna"]),
    "datasets": (["datasets"], ["datasets", "multiprocess", "dill"]),
}


def _needs(name):
    return _NEEDS.get(name) or _NEEDS[name.partition(",")[0]]


def prepare(name):
    """Give a carrier, with what it needs imported."""
    for module in _needs(name)[0]:
        importlib.import_module(module)
    return CARRIERS[name]


def packages(name):
    """Name the packages that a carrier is of, beside Python and torch."""
    return _needs(name)[1]
