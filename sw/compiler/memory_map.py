"""Where the regions of a run lie in memory."""

from dataclasses import dataclass, fields

from rowmesh.sw.counts import weight_beats
from rowmesh.sw.mapping import Mapping, ceil_div
from rowmesh.sw.tensors import BASE_ALIGNMENT

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
    def of(
        cls, mapping: Mapping, program_bytes: int = 1 << 16, *, weight_bytes: int = 0, filters: int = 0
    ) -> "MemoryMap":
        """Lay out the memory of a layer: program, iacts, weights, parameters, ofmap.

        ``weight_bytes`` and ``filters`` are those of the whole layer if the mapping is of a share of it.
        """
        sizes = {
            "program": program_bytes,
            "iact": mapping.iact_layout.nbytes,
            "weight": weight_bytes or weight_beats(mapping) * mapping.g_t * mapping.config.beat_bytes,
            "param": (filters or mapping.layer.m) * mapping.config.beat_bytes,
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
