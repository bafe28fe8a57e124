"""The activities: all I/O of the workflows. Each class holds the clients that it needs; `worker.py` builds them."""
