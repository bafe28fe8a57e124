"""The product in its production shape, for `make bench-production`: PostgreSQL, a real Temporal server, the API and
workers, each a process of its own."""
