"""Row 3: the image: Set Parameters, Unpack page by page in ascending order, Verify.

And where an image comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import shake_256
from typing import TYPE_CHECKING

from protocol.arch.s390.calls import BY_NAME
from protocol.arch.s390.host import bulk
from protocol.arch.s390.host.guests import Guest, GuestFailed
from protocol.arch.s390.host.pages import PREFAULT, back_all
from protocol.arch.s390.structs import EXECUTED, NODATA, SET_PARAMS, block
from protocol.effects import Step
from protocol.errors import TeRefused
from protocol.memory.physical import chunks
from protocol.memory.store import PAGE, PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.host.system import Host
    from protocol.arch.s390.image import Image, ImagePage

IMAGE_AT = 0x10000
TWEAK = 1  # prefix of the tweaks of the one component


def scenario_image(machine_seed: int, seed: int, pages: int, data: bytes | None = None) -> Image:
    """An image that the machine of `machine_seed` can open: of `data`, or of `pages` pages made from `seed`.

    Its guests may be dumped.
    Building takes a while and gives the same for the same arguments: build one for all guests.
    """
    from protocol.arch.s390.image import PCF_ALLOW_DUMP, Component, build, host_key

    if data is None:
        data = shake_256(f"image:{seed}".encode()).digest(pages * PAGE)
    digest = shake_256(f"digest:{seed}:{pages}".encode()).digest(32)
    slots = [host_key(machine_seed, "host")]
    return build(
        [Component(IMAGE_AT, data, TWEAK)], seed=seed, digest=digest, slots=slots, pcf=PCF_ALLOW_DUMP
    )


def load(host: Host, guest: Guest) -> Step[None]:
    """Make the guest what its image says. Raises TeRefused, OutOfFrames: then it can only be destroyed;
    GuestFailed for an image that does not fit.
    """
    image = host.image
    if image is None:
        raise ValueError("a host without an image cannot load a guest")
    _fits(guest, image.pages)
    yield from _set_params(host, guest, image.header)
    yield from bulk.unpack(host, guest, image.pages)
    if host.policy == PREFAULT and PREFAULT in host.offers:
        back_all(host, guest)  # the level below secures what it finds mapped
    yield from host.must(host.cpu_of(guest), "verify", NODATA, guest.handle)


def _set_params(host: Host, guest: Guest, header: bytes) -> Step[None]:
    """The header lies in vmalloc'ed pages."""
    area = host.home.allocate(-(-len(header) // PAGE))
    done = 0
    for frame, (_, n) in zip(host.home.frames(area).tolist(), chunks(area, len(header)), strict=True):
        host.store(frame << PAGE_SHIFT, header[done : done + n])
        done += n
    spec = BY_NAME["set_params"]
    request = block(spec.length, spec.code, SET_PARAMS, guest.handle, area, len(header))
    outcome = yield from host.in_home_space(host.cpu_of(guest), request)
    host.home.release(area)
    if outcome.rc != EXECUTED:
        raise TeRefused("set_params", outcome.rc, outcome.rrc)


def _fits(guest: Guest, pages: Sequence[ImagePage]) -> None:
    """Whoever built the image says where its pages go: each into the guest's memory, and no two into one."""
    places = {page.gaddr for page in pages}
    if len(places) < len(pages) or any(at % PAGE or at >= guest.size for at in places):
        raise GuestFailed(f"guest {guest.number}: its image has pages outside its memory, or one twice")
