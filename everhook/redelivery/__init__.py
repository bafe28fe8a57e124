"""Sending a message again, whatever became of its deliveries."""
