"""Where a peer is: one notation for every way in which VSOCK, or what stands in for it, is reached.

vsock:2:5200                    the real one: context id and port
hybrid:/run/guest.vsock:5200    a Unix socket that multiplexes: CONNECT 5200 (host to guest)
unix:/run/guest.vsock_5200      a plain Unix socket: the scheme's other direction (guest to host)
tcp:host.example:5200           TCP with mutual TLS
memory:2:5200                   the emulated fabric, within one process
"""

from __future__ import annotations

from typing import NamedTuple

CID_HYPERVISOR, CID_LOCAL, CID_HOST = 0, 1, 2
CID_FIRST_GUEST = 3
CID_ANY = PORT_ANY = 0xFFFF_FFFF
PRIVILEGED_PORTS = 1024  # below this a guest needs a capability to bind
UNIX_PATH_BYTES = 107  # of a socket's name, without the final zero

SCHEMES = ("vsock", "hybrid", "unix", "tcp", "memory")
FORMS = "vsock:CID:PORT, hybrid:PATH:PORT, unix:PATH, tcp:HOST:PORT, memory:CID:PORT"


class Address(NamedTuple):
    """`place` is a path, a host name, or a context id in decimal."""

    scheme: str
    place: str
    port: int = 0

    @property
    def cid(self) -> int:
        return int(self.place)

    def __str__(self) -> str:
        return f"{self.scheme}:{self.place}" + (f":{self.port}" if self.scheme != "unix" else "")


def parse_address(text: str) -> Address:
    """Return the address that `text` says; raises ValueError with what is allowed."""
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest:
        return Address("unix", _path(rest, text))
    place, _, port = rest.rpartition(":")
    if scheme not in SCHEMES or not place or not port.isascii() or not port.isdigit():
        raise ValueError(f"{text!r} is no address; allowed: {FORMS}")
    if int(port) > PORT_ANY or (scheme == "tcp" and not 0 < int(port) < 1 << 16):
        raise ValueError(f"{text!r}: {port} is no port of {scheme}")
    if scheme in ("vsock", "memory"):
        if not place.isascii() or not place.isdigit() or int(place) > CID_ANY:
            raise ValueError(f"{text!r}: a context id is a number of 32 bits, not {place!r}")
    elif scheme == "hybrid":
        _path(place, text)
    else:
        _host(place, text)
    return Address(scheme, place, int(port))


def _path(path: str, text: str) -> str:
    if len(path.encode()) > UNIX_PATH_BYTES or "\0" in path:
        raise ValueError(
            f"{text!r}: the name of a Unix socket has at most {UNIX_PATH_BYTES} bytes, none is 0"
        )
    return path


def _host(place: str, text: str) -> None:
    try:
        name = place.encode("idna")  # as whoever looks the name up does
    except UnicodeError as error:
        raise ValueError(f"{text!r}: {place!r} is no name of a host: {error}") from None
    if b"\0" in name:
        raise ValueError(f"{text!r}: {place!r} is no name of a host")
