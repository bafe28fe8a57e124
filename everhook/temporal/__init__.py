"""Temporal: the client, search attributes, and provisioning of the namespace."""
