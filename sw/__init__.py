"""Workloads, mapper, model, compiler and golden model."""
