"""Endpoints: where tenants receive, with their secrets, subscriptions and quotas."""
