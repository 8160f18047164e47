"""What a payload holds of a run without a connection."""

import pytest

import wandb_ddp_patch  # noqa: F401
from wandb_ddp_patch.runs import metadata


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("https://wandb.ai/e/p/runs/1?apiKey=secret", "https://wandb.ai/e/p/runs/1"),
        ("https://u:secret@wandb.ai:8080/e?apiKey=secret#x", "https://wandb.ai:8080/e"),
        ("http://localhost:8080/e/p", "http://localhost:8080/e/p"),
    ],
)
def test_an_anonymous_users_url_leaves_its_key_behind(url, bare):
    """wandb puts the API key of an anonymous user into the run's URL."""
    assert metadata.strip_credentials(url) == bare
