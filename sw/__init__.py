"""Workloads, mapper, analytical model, compiler and golden model."""
