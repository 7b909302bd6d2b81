"""What the gateway adds to a request, beside other gateways: `python -m benchmarks.gateway`."""
