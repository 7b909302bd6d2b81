"""`agents`: agents under supervision, from the command line."""
