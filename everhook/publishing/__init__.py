"""Accepting messages: matching, fan-out to endpoints, idempotency, and the transaction behind every 202."""
