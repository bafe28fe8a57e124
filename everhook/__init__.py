"""The kernel of Everhook. It imports nothing of `api`, `workflows`, `activities` or `worker`."""

__version__ = "0.1.0"
