"""dask, joblib and datasets know a run's config again, in another script and another process."""

import arms


def test_fingerprints_of_a_config_agree(tmp_path):
    told = set()
    for number in range(4):
        # wandb notes which libraries it sees; and its service returns keys in any order.
        first = "torch" if number % 2 else "json"
        ended = arms.run(tmp_path / str(number), arms.WITH, "use_fingerprints.py", first)
        assert ended.code == 0, ended.output
        told.update(line for line in ended.output.splitlines() if line.startswith("token "))
    assert len(told) == 3, told
