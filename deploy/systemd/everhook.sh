#!/bin/sh
# The command `everhook`, of the checkout in /opt/everhook with its virtual environment: installed as
# /usr/local/bin/everhook. `-P`: what lies in the current directory is not imported.
export PYTHONPATH=/opt/everhook
exec /opt/everhook/.venv/bin/python -P -m cli "$@"
