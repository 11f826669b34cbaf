"""Compiled functions and records, and their cache."""
