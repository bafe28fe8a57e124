"""Delivery modes `poll` and `stream`: consumers take deliveries from a queue with leases, and acknowledge them."""
