"""From a committed message to its first attempt and its workflow: what API and worker processes share."""
