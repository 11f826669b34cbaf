"""Shipped energy tables: one YAML file each."""
