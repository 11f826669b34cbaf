"""Shipped architectures and workloads (data files)."""
