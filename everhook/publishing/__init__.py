"""Publishing: accepting messages, matching, fan-out to endpoints, idempotency, and the transaction of every 202."""
