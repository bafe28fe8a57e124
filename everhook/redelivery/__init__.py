"""Sending a message again after its deliveries have ended."""
