"""Signatures of requests: making them, and checking them as a receiver does."""
