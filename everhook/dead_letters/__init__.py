"""Deliveries that could not be made: finding them, and bulk replay and purge."""
