# --- what runs the cases of warm_scripts.Host ------------------------------------------------


def _serve(port):
    import json
    import socket

    connection = socket.create_connection(("127.0.0.1", port))
    with connection, connection.makefile("rw") as stream:
        for line in stream:
            print("failed" if _fails(json.loads(line)) else "done", file=stream, flush=True)


def _fails(case):
    import importlib
    import os
    import sys
    import traceback

    environ, folder = dict(os.environ), os.getcwd()
    lists = list(sys.argv), list(sys.path)
    streams = [os.dup(number) for number in (1, 2)]
    for number, path in enumerate(case["streams"], 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    try:
        os.environ.update(case["env"])
        os.chdir(case["folder"])
        importlib.invalidate_caches()
        importlib.import_module(case["name"]).main()
    except BaseException:
        traceback.print_exc()
        return True
    finally:
        _end_all()
        sys.stdout.flush()
        sys.stderr.flush()
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
            os.close(stream)
        # By these variables wandb, and workers, find the service that it has started.
        environ.update({k: v for k, v in os.environ.items() if k.startswith("WANDB_")})
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(folder)
        sys.argv[:], sys.path[:] = lists
    return False


def _end_all():
    """End what a case has left, for the sake of the next one."""
    import multiprocessing
    import sys

    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


if __name__ == "__main__":
    import sys as _sys

    _serve(_sys.argv[1])
