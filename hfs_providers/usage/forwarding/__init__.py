"""Forwards rows from the local file to the user's databases."""
