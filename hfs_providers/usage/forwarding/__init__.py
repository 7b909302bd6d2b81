"""Rows from the local file to databases of the user's."""
