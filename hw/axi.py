"""AXI4 and AXI4-Lite interfaces, and how a top component names their ports.

Identifiers are one bit and always 0: all bursts of one direction stay in order.
"""

from typing import Any

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

__all__ = [
    "BURST_INCR",
    "PAGE_BYTES",
    "RESP_OKAY",
    "RESP_SLVERR",
    "Axi4",
    "Axi4Lite",
    "Axi4Read",
    "Axi4Write",
    "beat_size",
    "flat_interface",
    "flat_members",
    "flat_ports",
]

PAGE_BYTES = 4096
"""A burst never crosses a multiple of this."""

RESP_OKAY = 0b00
RESP_SLVERR = 0b10
BURST_INCR = 0b01


def beat_size(data_width: int) -> int:
    """AxSIZE of whole beats."""
    return exact_log2(data_width // 8)


def _address(prefix: str, addr_width: int) -> dict[str, Any]:
    return {
        f"{prefix}id": Out(1),
        f"{prefix}addr": Out(addr_width),
        f"{prefix}len": Out(8),
        f"{prefix}size": Out(3),
        f"{prefix}burst": Out(2),
        f"{prefix}lock": Out(1),
        f"{prefix}cache": Out(4),
        f"{prefix}prot": Out(3),
        f"{prefix}valid": Out(1),
        f"{prefix}ready": In(1),
    }


class Axi4Read(wiring.Signature):
    """Read half of an AXI4 manager: channels AR and R.

    Parameters
    ----------
    addr_width, data_width : int
    """

    def __init__(self, addr_width: int, data_width: int) -> None:
        super().__init__(
            {
                **_address("ar", addr_width),
                "rid": In(1),
                "rdata": In(data_width),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class Axi4Write(wiring.Signature):
    """Write half of an AXI4 manager: channels AW, W and B.

    Parameters
    ----------
    addr_width, data_width : int
    """

    def __init__(self, addr_width: int, data_width: int) -> None:
        super().__init__(
            {
                **_address("aw", addr_width),
                "wdata": Out(data_width),
                "wstrb": Out(data_width // 8),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
            }
        )


class Axi4(wiring.Signature):
    """An AXI4 manager: members ``read`` (Axi4Read) and ``write`` (Axi4Write).

    Parameters
    ----------
    addr_width, data_width : int
    """

    def __init__(self, addr_width: int, data_width: int) -> None:
        super().__init__(
            {
                "read": Out(Axi4Read(addr_width, data_width)),
                "write": Out(Axi4Write(addr_width, data_width)),
            }
        )


class Axi4Lite(wiring.Signature):
    """An AXI4-Lite manager with 32-bit data; a subordinate has it as ``In(Axi4Lite(addr_width))``.

    Parameters
    ----------
    addr_width : int
    """

    def __init__(self, addr_width: int) -> None:
        super().__init__(
            {
                "awaddr": Out(addr_width),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(addr_width),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


def _leaves(signature: wiring.Signature, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, member in signature.members.items():
        if member.is_port:
            found.append(((*path, name), member))
        else:
            found += _leaves(member.signature, (*path, name))
    return found


def flat_members(prefix: str, signature: Any) -> dict[str, Any]:
    """Members ``prefix_name`` of a top component, one for each port of an interface.

    The interface's port names are unique over its nested parts, so these are left out: ``m_axi_awaddr``, not
    ``m_axi_write_awaddr``.

    Parameters
    ----------
    prefix : str
        Such as "m_axi".
    signature : Signature
        As seen by the top: ``Axi4(...)``, or ``Axi4Lite(...).flip()`` for a subordinate.
    """
    return {f"{prefix}_{path[-1]}": member for path, member in _leaves(signature)}


def flat_interface(owner: Any, prefix: str, signature: Any) -> Any:
    """Interface made of the ports that :func:`flat_members` gave a component, for use with ``connect``.

    Parameters
    ----------
    owner : Component
        The component with the ports ``prefix_name``.
    prefix, signature
        As for :func:`flat_members`.
    """
    interface = signature.create()
    for path, _ in _leaves(signature):
        part = interface
        for name in path[:-1]:
            part = getattr(part, name)
        setattr(part, path[-1], getattr(owner, f"{prefix}_{path[-1]}"))
    return interface


def flat_ports(prefix: str, interface: Any) -> list[tuple[str, Any, str]]:
    """List (port name, signal, "input" or "output") of an interface of a top.

    Parameters
    ----------
    prefix : str
    interface : interface of one of the signatures above
    """
    ports = []
    for path, member in _leaves(interface.signature):
        part = interface
        for name in path:
            part = getattr(part, name)
        ports.append((f"{prefix}_{path[-1]}", part, "output" if member.flow is Out else "input"))
    return ports
