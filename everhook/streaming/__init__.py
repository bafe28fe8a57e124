"""Streams of deliveries: server-sent events for consumers that stay connected."""
