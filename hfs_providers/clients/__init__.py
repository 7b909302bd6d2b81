"""SDK clients and their connections, shared by the keys of a provider."""
