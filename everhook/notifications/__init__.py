"""Operational events: what operators are notified of, published as messages."""
