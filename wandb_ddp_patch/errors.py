"""What can go wrong, as exceptions. Imports nothing, so that anything may import it."""


class CommandError(Exception):
    """What the command line was asked for can't be done; the message says why, in a line."""


class RunUnreachableError(Exception):
    """A run can't be written from this process; the message says why."""


class NotSerializableError(Exception):
    """What a worker asked for is an object that belongs to the run's owner."""


FINISHED = "the process that called wandb.init() has finished it, or has ended"
