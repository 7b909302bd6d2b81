"""The cost of requests, and budgets."""
