"""Errors of commands: one line for people, and an exit status."""


class CommandError(Exception):
    """Ends a command. The text says what is wrong and what to do; `status` is the exit status."""

    status = 1


class UsageError(CommandError):
    """The command was called wrongly, or its environment lacks something."""

    status = 2
