"""Shipped workloads: one YAML file each."""
