"""The dashboard: the state of keys and requests as data, in a browser and in a terminal."""
