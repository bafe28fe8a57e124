"""Signatures of requests: signing them, and verifying them as a receiver does."""
