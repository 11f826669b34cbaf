"""Where the regions of a run lie in memory."""

from dataclasses import dataclass, fields

from rowmesh.sw.mapping.cluster import ClusterMapping, ceil_div
from rowmesh.sw.workload.tensors import BASE_ALIGNMENT

__all__ = ["MemoryMap"]


@dataclass(frozen=True)
class MemoryMap:
    """Byte addresses of a run's regions."""

    program: int
    iact: int
    weight: int
    param: int
    ofmap: int
    size: int

    @classmethod
    def of(cls, mapping: ClusterMapping, program_bytes: int, weight_bytes: int, filters: int) -> "MemoryMap":
        """Lay out the memory of a layer: program, iacts, weights, parameters, ofmap.

        Parameters
        ----------
        mapping : ClusterMapping
            Of any cluster.
        program_bytes, weight_bytes : int
            Of the program, and of the weights of all clusters.
        filters : int
            Of the whole layer.
        """
        sizes = {
            "program": program_bytes,
            "iact": mapping.iact_layout.nbytes,
            "weight": weight_bytes,
            "param": filters * mapping.config.beat_bytes,
            "ofmap": mapping.ofmap_layout.nbytes,
        }
        at, places = 0, {}
        for name, size in sizes.items():
            places[name] = at
            at += ceil_div(size, 4096) * 4096
        assert all(place % BASE_ALIGNMENT == 0 for place in places.values())
        return cls(**places, size=at)

    def moved(self, by: int) -> "MemoryMap":
        """Return the map some bytes further on; ``size`` is then the end of the last region."""
        return MemoryMap(*(getattr(self, field.name) + by for field in fields(self)))
