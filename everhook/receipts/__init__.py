"""Receipts of attempts: what they state, the keys that sign them, and checking them offline."""
