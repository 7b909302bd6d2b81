"""The built-in providers: one module each, found through the same entry points as anyone's."""
