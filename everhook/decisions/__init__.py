"""The decisions of tasks, by people and by the due date, and what follows from them."""
