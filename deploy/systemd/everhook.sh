#!/bin/sh
# The command `everhook`: runs the checkout in /opt/everhook with its virtual environment. Install it as
# /usr/local/bin/everhook. `-P`: do not import modules from the current directory.
export PYTHONPATH=/opt/everhook:/opt/everhook/sdk/python
exec /opt/everhook/.venv/bin/python -P -m cli "$@"
