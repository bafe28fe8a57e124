"""Delivery: from a committed message to its first attempt and its workflow. Shared by API and worker processes."""
