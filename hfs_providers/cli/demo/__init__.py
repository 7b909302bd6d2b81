"""`demo`: what rotation and fallback do, shown against a simulated provider."""
