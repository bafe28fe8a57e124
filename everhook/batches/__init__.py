"""Batches: replays of channels, and bulk operations on dead letters. Follow them, list them, cancel them."""
