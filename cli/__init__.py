"""The command line: `everhook …`."""
