"""Many processes that share one allowance, each calling as fast as it can: what arrives at the server is counted."""
