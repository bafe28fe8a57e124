"""What became of a message: waiting for it, and the events of its life."""
