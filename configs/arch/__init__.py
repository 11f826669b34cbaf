"""Shipped architectures: one YAML file each."""
