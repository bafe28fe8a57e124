"""Tenants, API keys, the audit trail, erasure and retention."""
