"""Replays of channels, and batches."""
