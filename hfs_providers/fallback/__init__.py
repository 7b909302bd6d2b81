"""Chains of models: which entry serves a turn."""
