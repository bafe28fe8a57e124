"""All I/O that workflows ask for. Each class holds its clients and is handed them by `worker.py`."""
