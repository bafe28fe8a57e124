"""`everhook dev`: everything on one machine."""
