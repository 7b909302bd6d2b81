"""keycycle's interface over the key pool."""
