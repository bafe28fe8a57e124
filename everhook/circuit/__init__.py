"""The circuit breaker of each endpoint: the state machine, its projection in the database, its client."""
