"""What happens to keys and requests, for people who look: as data, in a browser and in a terminal."""
