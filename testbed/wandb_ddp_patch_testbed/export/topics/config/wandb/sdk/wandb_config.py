from __future__ import annotations


class Config:
    def __getattr__(self, key):
        # Copying and pickling make instances without calling `__init__`, and
        # look up attributes on them. There are no items to look in yet.
        if key == "_items":
            raise AttributeError(f"{self.__class__!r} has no attribute {key!r}")

        try:
            return self.__getitem__(key)
        except KeyError as ke:
            raise AttributeError(
                f"{self.__class__!r} object has no attribute {key!r}"
            ) from ke

    def __getstate__(self) -> dict[str, object]:
        """Return the data to copy or pickle.

        This leaves out what ties the config to its run: the callbacks, the
        settings, which hold the API key, and telemetry.
        """
        state = self.__dict__.copy()
        for key in ("_callback", "_settings", "_artifact_callback"):
            state.pop(key, None)

        # A shallow copy can be changed without changing this config.
        for key in ("_items", "_locked", "_users", "_users_inv"):
            state[key] = state[key].copy()

        # Telemetry differs between processes whose configs are the same.
        state["_items"].pop("_wandb", None)

        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        """Restore copied or unpickled data to a config that has no run."""
        self.__dict__.update(
            state,
            _callback=None,
            _settings=None,
            _artifact_callback=None,
        )
