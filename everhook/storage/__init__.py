"""Storage: the tables, the engine, and what all stores share. The SQL of each capability is in its `store.py` files."""
