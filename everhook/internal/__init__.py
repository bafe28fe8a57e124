"""Deliveries that Everhook handles itself: mails, chat messages, reminders and escalations."""
