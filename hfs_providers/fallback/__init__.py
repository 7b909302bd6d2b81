"""Fallback chains: which model serves a turn, and which one is asked if it fails."""
