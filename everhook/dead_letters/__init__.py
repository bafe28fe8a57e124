"""Dead letters: finding them, and bulk replay and purge."""
