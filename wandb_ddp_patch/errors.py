"""What can go wrong, as exceptions. Imports nothing, so that anything may import it."""


class CommandError(Exception):
    """What the command line was asked for can't be done; the message says why, in a line."""


class RunUnreachableError(Exception):
    """A run can't be written from this process.

    Args:
        why: The reason, as a clause without a full stop.
        remedy: What to do about it, as a sentence, where that is not the usual advice.
    """

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.remedy = remedy


class NotSerializableError(Exception):
    """What a worker asked for is an object that belongs to the run's owner."""


FINISHED = "the process that called wandb.init() has finished it, or has ended"
