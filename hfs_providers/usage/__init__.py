"""The durable log of requests: one row each, its reports, and the databases it is forwarded to."""
