"""AXME's terms over messages, endpoints and tasks: intents, agents, and what became of them."""
