"""The carriers of Python itself, of torch and of what pickles: each takes a parcel to a worker."""

import concurrent.futures
import functools
import multiprocessing
import subprocess
import sys

import carried
import torch.multiprocessing
import torch.utils.data


class Lost(Exception):
    """A worker has failed, and says why itself."""


def process(method, parcel):
    worker = multiprocessing.get_context(method).Process(target=carried.use, args=(parcel,))
    worker.start()
    worker.join()
    if worker.exitcode:
        raise Lost(worker.exitcode)


def take(queue):
    carried.use(queue.get())


def queue(method, parcel):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=take, args=(queue,))
    worker.start()
    queue.put(parcel)
    worker.join()
    if worker.exitcode:
        raise Lost(worker.exitcode)


def pool(method, parcel):
    with multiprocessing.get_context(method).Pool(2) as pool:
        pool.map(carried.use, [parcel] * 2)


def executor(method, parcel):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(carried.use, parcel).result()


def torch_worker(rank, parcel):
    carried.use(parcel)


def torch_spawn(method, parcel):
    torch.multiprocessing.start_processes(
        torch_worker, args=(parcel,), nprocs=2, start_method=method
    )


def our_spawn(parcel):
    import wandb_ddp_patch

    wandb_ddp_patch.spawn(torch_worker, args=(parcel,), nprocs=2)


class Dataset(torch.utils.data.Dataset):
    def __init__(self, parcel):
        self.parcel = parcel

    def __len__(self):
        return 1

    def __getitem__(self, index):
        carried.use(self.parcel)
        return index


def dataloader(method, parcel):
    list(
        torch.utils.data.DataLoader(Dataset(parcel), num_workers=1, multiprocessing_context=method)
    )


def loky(parcel):
    import joblib

    joblib.Parallel(n_jobs=2)(joblib.delayed(carried.use)(parcel) for _ in range(2))


def by_file(dump, load, parcel):
    """Write it to a file, and read that in a process that shares nothing else."""
    with open("parcel", "wb") as file:
        dump(parcel, file)
    code = f"import carried, wandb_ddp_patch; {load}; carried.use(parcel)"
    subprocess.run([sys.executable, "-c", code], check=True)


def cloudpickle(parcel):
    import cloudpickle

    by_file(cloudpickle.dump, "import pickle; parcel = pickle.load(open('parcel', 'rb'))", parcel)


def dill(parcel):
    import dill

    by_file(dill.dump, "import dill; parcel = dill.load(open('parcel', 'rb'))", parcel)


def torch_save(parcel):
    load = "import torch; parcel = torch.load('parcel', weights_only=False)"
    by_file(torch.save, load, parcel)


_BY_METHOD = {
    "multiprocessing.Process": process,
    "multiprocessing.Queue": queue,
    "multiprocessing.Pool": pool,
    "ProcessPoolExecutor": executor,
    "torch.multiprocessing": torch_spawn,
    "DataLoader": dataloader,
}
CARRIERS = {
    **{
        f"{name}, {method}": functools.partial(carrier, method)
        for name, carrier in _BY_METHOD.items()
        for method in ("spawn", "forkserver", "fork")
    },
    "wandb_ddp_patch.spawn": our_spawn,
    "joblib (loky)": loky,
    "cloudpickle, to a file": cloudpickle,
    "dill, to a file": dill,
    "torch.save, to a file": torch_save,
}


_PACKAGES = {
    "joblib (loky)": ["joblib"],
    "cloudpickle, to a file": ["cloudpickle"],
    "dill, to a file": ["dill"],
}


def prepare(name):
    """Give a carrier, with what it needs imported."""
    return CARRIERS[name]


def packages(name):
    """Name the packages that a carrier is of, beside Python and torch."""
    return _PACKAGES.get(name, [])
