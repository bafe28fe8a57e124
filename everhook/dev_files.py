"""What `everhook dev` keeps in its data directory for the commands that are run beside it."""

DATA_DIR = ".everhook"
KEY_FILE = "api-key"
URL_FILE = "api-url"
"""Where the API is. It is there for as long as `everhook dev` runs."""
