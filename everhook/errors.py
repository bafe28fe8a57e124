"""Errors that callers of the kernel catch.

ConfigurationError      a setting, or what surrounds the process, cannot be used
"""


class ConfigurationError(Exception):
    """A setting, or what surrounds the process (a port, a package), cannot be used. The text names the setting and
    says what to do. The command line prints it as one line and exits with status 2."""
