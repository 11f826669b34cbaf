"""Shipped dataflows: one YAML file of mapspace constraints each."""
