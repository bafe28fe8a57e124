"""The production shape, for `make bench-production`: PostgreSQL, a real Temporal server, the API and workers, each
in its own process."""
