"""`usage`: reports, charts, pruning and sending of what was used, from the command line."""
