"""The ground: records, errors, secrets, names of variables, fork order. Imports nothing of the package."""
