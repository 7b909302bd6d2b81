"""The lowest package: records, errors, secrets, names of variables, fork order. It imports no other package of ours."""
