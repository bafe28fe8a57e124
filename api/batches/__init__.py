"""Replays of channels, and the progress of bulk operations."""
