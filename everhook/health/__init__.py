"""Health of endpoints: scores, the overview, the backlog and alerts."""
