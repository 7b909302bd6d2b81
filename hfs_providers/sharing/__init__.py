"""Key state among the processes of a host (the usage file) and among hosts (Redis)."""
