"""The verdict bench: what libraries do with the key, the call and the model when a provider answers an error."""
