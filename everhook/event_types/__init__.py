"""Event types: what the messages of each type look like, and whether a payload fits."""
