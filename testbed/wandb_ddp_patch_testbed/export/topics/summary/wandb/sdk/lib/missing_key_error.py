"""The error for a name that is neither an attribute nor a key."""


class MissingKeyError(AttributeError, KeyError):
    """A missing key was accessed as an attribute.

    It is an `AttributeError` for `hasattr`, `copy` and `pickle`. It is a
    `KeyError` as well because callers may depend on that.
    """
