"""Layers, their tensors and data, and the golden model."""
