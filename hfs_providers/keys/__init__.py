"""The key pool: which key is next, what is left of its limits, when it is free again."""
