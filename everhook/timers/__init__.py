"""The timers of tasks: reminders, escalation and due date."""
