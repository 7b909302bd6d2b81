"""What the dashboard costs with thousands of keys and millions of rows: `python -m benchmarks.dashboard`."""
