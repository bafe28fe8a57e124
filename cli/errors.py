"""How commands end when they fail: one line for people, and an exit status."""


class CommandError(Exception):
    """Ends a command. The text says what is wrong, and what to do; `status` is the exit status."""

    status = 1


class UsageError(CommandError):
    """The command was called wrongly, or what it needs around it is not there."""

    status = 2
