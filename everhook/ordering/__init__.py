"""The order of deliveries within groups."""
