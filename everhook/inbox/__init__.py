"""Inboxes: tasks for people, and their decisions."""
