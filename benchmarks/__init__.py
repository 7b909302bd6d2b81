"""Measures what `hfs-providers` costs, beside a bare Agno model, keycycle and LiteLLM: `python -m benchmarks`."""
