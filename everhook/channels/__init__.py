"""Channels: the named streams that services publish to, each with a default delivery policy."""
