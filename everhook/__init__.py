"""The kernel of Everhook: one package for each capability. It imports nothing from `api`, `cli`, `workflows` or
`activities`."""

__version__ = "0.1.0"
