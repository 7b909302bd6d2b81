"""A gateway between clients that leave and providers that fail, ended and killed in the middle: the books balance."""
