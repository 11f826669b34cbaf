"""Templates of the pages that rowmesh writes."""
