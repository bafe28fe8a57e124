"""The circuit breaker of each endpoint: the state machine, its row in the database, and the client of its workflow."""
