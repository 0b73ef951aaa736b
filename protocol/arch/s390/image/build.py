"""The owner's workbench: components in, SE header and encrypted pages out.

Follows ibm-s390-linux/s390-tools `rust/pvimg` (`cmd/create.rs`, `pv_utils/secured_comp.rs`,
`se_hdr/hdr_v1.rs`): components lie in ascending address order without overlap, each is padded with zeroes
to pages, an empty one becomes one page. Left out: the boot stages and the IPL parameter block that the real
builder puts around the components; a guest's program is given to this emulator in another way.

Not one byte is random: keys and initialisation vectors come from the seed and from `digest`, the caller's
hash of the request. The same request therefore gives the same image, and two requests share no key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from protocol.arch.s390.image.header import (
    IV_BYTES,
    KEY_BYTES,
    MAGIC,
    PCF_PLAIN_COMPONENTS,
    PSW_BYTES,
    SECRETS_BYTES,
    SLOTS_MAX,
    VERSION_1,
    XTS_KEY_BYTES,
    Fixed,
    Secrets,
    header_bytes,
)
from protocol.arch.s390.image.keys import HostKey, derive, gcm_seal, key_pair, scalar_from, wrap
from protocol.arch.s390.image.pages import PAGE_BYTES, Digests, Tweak, encrypt_page

PSW_MASK_64 = 0x0000000180000000  # bits 31 and 32: 64-bit addressing
_DOUBLEWORD = 1 << 64


class ImageError(ValueError):
    """A request for an image that cannot be built; `field` names the argument."""

    def __init__(self, field: str, message: str) -> None:
        """Keep the argument's name beside the message."""
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Component:
    """A part of the image: guest absolute address (page-aligned), contents, prefix of its tweaks."""

    gaddr: int
    data: bytes
    tweak: int

    @property
    def pages(self) -> int:
        """How many pages it fills, at least one."""
        return max(1, -(-len(self.data) // PAGE_BYTES))

    @property
    def end(self) -> int:
        """The first address behind its last page."""
        return self.gaddr + self.pages * PAGE_BYTES


@dataclass(frozen=True, slots=True)
class ImagePage:
    """One page as the host gets it, with what Unpack wants to know."""

    gaddr: int
    tweak: Tweak
    data: bytes


@dataclass(frozen=True, slots=True)
class Image:
    """What the owner hands over (`header`, `pages` in load order) and keeps (`cck`)."""

    header: bytes
    pages: tuple[ImagePage, ...]
    cck: bytes


def build(
    components: Sequence[Component],
    *,
    seed: int,
    digest: bytes,
    slots: Sequence[HostKey],
    psw: bytes | None = None,
    pcf: int = 0,
    scf: int = 0,
) -> Image:
    """Build an image that the hosts of `slots` can open; without a slot nobody can.

    `psw` (16 bytes) is by default 64-bit mode at the component given first. Flags are taken as they are: an
    owner may ask for what a machine refuses. Raises ImageError.
    """
    ordered = _in_load_order(components)
    start = psw if psw is not None else default_psw(components[0].gaddr)
    _check_rest(start, pcf, scf, slots)

    xts_key = derive("image/xts", seed, digest, XTS_KEY_BYTES)
    digests = Digests()
    pages = tuple(_pages(ordered, None if pcf & PCF_PLAIN_COMPONENTS else xts_key, digests))

    customer = key_pair(scalar_from(derive("image/customer", seed, digest, 82)))
    protection_key = derive("image/protection", seed, digest, KEY_BYTES)
    cck = derive("image/cck", seed, digest, KEY_BYTES)
    fixed = Fixed(
        magic=MAGIC,
        version=VERSION_1,
        size=header_bytes(len(slots)),
        iv=derive("image/iv", seed, digest, IV_BYTES),
        reserved=bytes(4),
        slots=len(slots),
        area_bytes=SECRETS_BYTES,
        pages=digests.pages,
        pcf=pcf,
        customer_key=customer.public,
        pld=digests.pld,
        ald=digests.ald,
        tld=digests.tld,
    )
    wrapped = b"".join(wrap(protection_key, customer.scalar, host).pack() for host in slots)
    aad = fixed.pack() + wrapped
    area, tag = gcm_seal(protection_key, fixed.iv, aad, Secrets(cck, xts_key, start, scf).pack())
    return Image(aad + area + tag, pages, cck)


def default_psw(address: int) -> bytes:
    """Return the PSW that starts a guest at `address` in 64-bit mode."""
    return (PSW_MASK_64 << 64 | address).to_bytes(PSW_BYTES, "big")


def _pages(components: Sequence[Component], xts_key: bytes | None, digests: Digests) -> Iterator[ImagePage]:
    for component in components:
        for offset in range(0, component.pages * PAGE_BYTES, PAGE_BYTES):
            plain = component.data[offset : offset + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")
            tweak = (component.tweak, offset)
            data = plain if xts_key is None else encrypt_page(xts_key, tweak, plain)
            digests.add(component.gaddr + offset, tweak, data)
            yield ImagePage(component.gaddr + offset, tweak, data)


def _in_load_order(components: Sequence[Component]) -> list[Component]:
    """Sort by address; refuse what no image can hold."""
    if not components:
        raise ImageError("components", "an image needs at least one component")
    ordered = sorted(components, key=lambda component: component.gaddr)
    free_from = 0
    for component in ordered:
        if component.gaddr % PAGE_BYTES or component.gaddr < 0 or component.end > _DOUBLEWORD:
            raise ImageError("gaddr", f"{component.gaddr:#x} is not a page address of a 64-bit guest")
        if component.gaddr < free_from:
            raise ImageError("gaddr", f"the component at {component.gaddr:#x} overlaps the one before it")
        if not 0 <= component.tweak < _DOUBLEWORD:
            raise ImageError("tweak", "a component prefix has 8 bytes")
        free_from = component.end
    return ordered


def _check_rest(psw: bytes, pcf: int, scf: int, slots: Sequence[HostKey]) -> None:
    if len(psw) != PSW_BYTES:
        raise ImageError("psw", f"a PSW has {PSW_BYTES} bytes, not {len(psw)}")
    for field, flags in (("pcf", pcf), ("scf", scf)):
        if not 0 <= flags < _DOUBLEWORD:
            raise ImageError(field, f"{field}: control flags have 8 bytes")
    if len(slots) > SLOTS_MAX:
        raise ImageError("keys", f"a header has room for {SLOTS_MAX} key slots")
