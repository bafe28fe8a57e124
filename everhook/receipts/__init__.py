"""Receipts of attempts: their content, the keys that sign them, and verifying them offline."""
