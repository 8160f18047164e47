"""What the command line reports in one line, whichever part of it has failed."""


class Failure(Exception):
    """What the user asked for can't be done; the message says why, in a line."""
