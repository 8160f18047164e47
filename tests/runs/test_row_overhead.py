"""What a worker does on the way to its first row and for each one, and what it need not."""

import multiprocessing
import os
import stat
import sys
import textwrap

import pytest
from rows import read_rows

FORKS = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="it has no forks"
)


def test_attaching_imports_no_launcher_of_jobs(fresh, tmp_path):
    out = fresh("""
        import multiprocessing, sys, wandb, wandb_ddp_patch
        def log(run):
            run.log({"x": 1})
            print([name for name in sys.modules if name.startswith("wandb.sdk.launch")])
        if __name__ == "__main__":
            run = wandb.init(project="p")
            print("wandb.sdk.launch" in sys.modules)  # it would have been
            worker = multiprocessing.get_context("spawn").Process(target=log, args=(run,))
            worker.start()
            worker.join()
            run.finish()
    """)
    assert out == "True\n[]\n"
    assert [row["x"] for row in read_rows(tmp_path)] == ["1"]


def test_inputs_of_a_job_that_a_worker_has_named_are_the_runs(forked, tmp_path):
    (tmp_path / "inputs.yaml").write_text("epochs: 3\n", "utf-8")
    forked("""
        import multiprocessing, wandb, wandb_ddp_patch
        def log(run):
            from wandb.sdk import launch
            launch.manage_config_file("inputs.yaml")
            run.log({"x": 1})
        if __name__ == "__main__":
            run = wandb.init(project="p")
            worker = multiprocessing.get_context("spawn").Process(target=log, args=(run,))
            worker.start()
            worker.join()
            run.finish()
    """)
    saved = tmp_path.glob("wandb/*run-*/files/_wandb_configs/inputs.yaml")
    assert [file.read_text("utf-8") for file in saved] == ["epochs: 3\n"]


SETTINGS = """
    import multiprocessing, os, wandb, wandb_ddp_patch
    def count():
        return len(open({calls!r}).readlines())
    def log(run, begun):
        {before}
        run.log({{"x": 1}})
        print(count() - begun, flush=True)
        settings = wandb.setup().settings
        print(settings.x_stats_pid == os.getpid(), settings.root_dir == os.getcwd(), end=" ")
        print(settings.quiet)
    if __name__ == "__main__":
        os.mkdir("elsewhere")
        run = wandb.init(project="p")
        worker = multiprocessing.get_context("fork").Process(target=log, args=(run, count()))
        worker.start()
        worker.join()
        run.finish()
"""


@FORKS
@pytest.mark.skipif(sys.platform == "win32", reason="the git of this test is a script")
@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("pass", "0\nTrue True False\n"),
        # What they depend on is not what it was.
        ("os.environ['WANDB_QUIET'] = 'true'", "1\nTrue True True\n"),
        ("os.chdir('elsewhere')", "1\nTrue True False\n"),
    ],
)
def test_a_fork_loads_settings_only_where_they_may_differ(forked, tmp_path, before, said):
    calls, git = tmp_path / "calls", tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(f"#!/bin/sh\necho >> {calls}\nexit 1\n", "utf-8")
    git.chmod(git.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(git.parent), os.environ["PATH"]])
    code = SETTINGS.format(calls=str(calls), before=before)
    assert forked(code, PATH=path, quiet=False) == said


def test_a_call_by_itself_is_looked_at_after_one_that_has_failed(forked, tmp_path):
    """Of what log() calls, each is part of it only while it is called."""
    out = forked(
        """
        import multiprocessing, wandb, wandb_ddp_patch
        def log(run, pipe):
            run.log({"x": 0})
            try: run.log("no row")
            except TypeError: print("refused", flush=True)
            run._log({"x": 1}, step=0)  # as TensorBoard's integration does
            pipe.send(None)
            pipe.recv()
            try: run._log({"x": 2})
            except wandb.errors.UsageError as error: print("finished" in str(error))
        if __name__ == "__main__":
            run = wandb.init(project="p")
            context = multiprocessing.get_context("spawn")
            pipe, its_pipe = context.Pipe()
            worker = context.Process(target=log, args=(run, its_pipe))
            worker.start()
            pipe.recv()
            run.finish()
            pipe.send(None)
            worker.join()
        """,
        quiet=False,
    )
    assert out == "refused\nTrue\n"
    assert [(row["x"], row.get("custom_step")) for row in read_rows(tmp_path)] == [
        ("0", None),
        ("1", "0"),
    ]


def test_a_row_takes_no_more_calls_than_with_wandb_alone(fresh):
    """Where it need not look at the owner's file, which is fifty times a second."""
    code = """
        import multiprocessing, sys, wandb
        def log(run):
            run.log({"x": 1})
            counts, calls = [], []
            def note(frame, event, argument):
                if event == "call": calls.append(frame.f_code)
            for n in range(20):
                calls.clear()
                sys.setprofile(note)
                run.log({"x": n})
                sys.setprofile(None)
                counts.append(len(calls))
            print(min(counts), any("wandb_ddp_patch" in code.co_filename for code in calls))
        if __name__ == "__main__":
            run = wandb.init(project="p")
            worker = multiprocessing.get_context("spawn").Process(target=log, args=(run,))
            worker.start()
            worker.join()
            run.finish()
    """
    patched = fresh("import wandb_ddp_patch\n" + textwrap.dedent(code)).split()
    alone = fresh(code, WANDB_DDP_PATCH="0").split()
    assert (patched[1], alone[1]) == ("True", "False")
    assert int(patched[0]) <= int(alone[0])
