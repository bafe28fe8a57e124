"""Deliveries that were given up: find them, replay or discard one, or all that match."""
