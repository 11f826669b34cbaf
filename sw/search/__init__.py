"""The search for the best mapping of a layer."""
