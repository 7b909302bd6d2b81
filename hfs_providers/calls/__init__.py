"""One call over several keys: attempts, verdicts on their errors, the rotating Agno model."""
