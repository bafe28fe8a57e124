"""Endpoints: where tenants receive webhooks, with their secrets, subscriptions and quotas."""
