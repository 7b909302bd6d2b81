"""The gateway: real sockets on both sides."""
