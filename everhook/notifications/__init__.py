"""Notifications: operational events, published to operators as messages."""
