"""One owner, one machine: what most image tests start from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocol.arch.s390.image import (
    SCF_KNOWN,
    Component,
    HostKey,
    Image,
    Refusal,
    Unsealed,
    build,
    host_key,
    unseal,
)

SUPPORTED_PCF = 0x300050E3  # supp_se_hdr_pcf of QUI


@pytest.fixture(scope="session")
def host() -> HostKey:
    """This machine's key."""
    return host_key(7, "host")


@pytest.fixture(scope="session")
def other() -> HostKey:
    """Another machine's key."""
    return host_key(7, "other")


@pytest.fixture(scope="session")
def image(host: HostKey, other: HostKey) -> Image:
    """Two components given out of order, slots for two machines."""
    components = [Component(0x20000, b"second" * 1000, 0x22), Component(0x10000, b"first", 0x11)]
    return build(components, seed=7, digest=b"request", slots=[other, host])


@pytest.fixture(scope="session")
def opened(host: HostKey) -> Callable[[bytes], Unsealed | Refusal]:
    """Set Parameters on this machine."""

    def open_header(header: bytes) -> Unsealed | Refusal:
        return unseal(header, host, supported_pcf=SUPPORTED_PCF, supported_scf=SCF_KNOWN)

    return open_header
