"""Mappings of layers: factors, splits over clusters, rules, dataflows, files."""
