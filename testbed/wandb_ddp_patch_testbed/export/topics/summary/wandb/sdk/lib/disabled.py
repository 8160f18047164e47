from .missing_key_error import MissingKeyError


class SummaryDisabled:
    def __getattr__(self, key):
        try:
            return self[key]
        except KeyError as e:
            raise MissingKeyError(key) from e
