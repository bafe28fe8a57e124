"""How well endpoints do: scores, the overview, the backlog and alerts."""
