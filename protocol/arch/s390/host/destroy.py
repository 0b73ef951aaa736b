"""Rows 12 to 14: a guest ends: in order, behind the back of its host, or because its VMM was killed.

What the Ultravisor will not give back is never used again: Linux leaks it, and so does this host (`leaked`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390.calls import BY_NAME
from protocol.arch.s390.host import bulk
from protocol.arch.s390.host.guests import NOTHING, SCA_FRAMES, Guest
from protocol.arch.s390.host.memory import mapped
from protocol.arch.s390.host.pages import let_go, take_back
from protocol.arch.s390.structs import EXECUTED, NODATA, PADDR
from protocol.effects import Step
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.host.system import Host

ASYNCHRONOUS_ABOVE = 1 << 31  # bytes: smaller guests are not worth a second thread
PREFIX_END = (1 << 31) >> PAGE_SHIFT  # a prefix lies below 2 GiB
BEHIND = 16  # pages of a guest set aside that go before each operation of the host; a kernel has a thread


@dataclass(slots=True)
class SetAside:
    """A guest that ended, some of whose pages are still secure. `ended`: its configuration is gone."""

    guest: Guest
    frames: np.ndarray
    ended: bool


def destroy(host: Host, guest: Guest) -> Step[None]:
    """Row 12: CPUs, configuration, then every page that is mapped."""
    ended = yield from _end_cpus(host, guest)
    ended = ended and (yield from _end_configuration(host, guest, "destroy_config"))
    _, frames = mapped(host.level, guest.table)
    yield from _release_pages(host, guest, frames)
    _forget(host, guest, ended)


def destroy_behind(host: Host, guest: Guest) -> Step[None]:
    """Row 13: prepare; the rest goes behind the back of whatever the host does next, a new guest's start too.

    One guest can be set aside at a time. Another one, and one that is not worth it, is destroyed in order.
    """
    if guest.size <= ASYNCHRONOUS_ABOVE or host.aside is not None:
        yield from destroy(host, guest)
        return
    ended = yield from prepare(host, guest)
    del host.guests[guest.number]
    pages, frames = mapped(host.level, guest.table)
    host.aside = SetAside(guest, frames[pages >= PREFIX_END], ended)


def prepare(host: Host, guest: Guest) -> Step[bool]:
    """CPUs, the configuration if it can be destroyed fast, and the pages that could be a prefix.

    True if the configuration is gone.
    """
    stopped = yield from _end_cpus(host, guest)
    ended = stopped and (yield from _end_fast(host, guest))
    pages, frames = mapped(host.level, guest.table)
    yield from _release_pages(host, guest, frames[pages < PREFIX_END])
    return ended


def go_on(host: Host, aside: SetAside, count: int) -> Step[None]:
    """Perform, as far as `count` pages; after the last one the configuration, if it is still there."""
    guest, frames = aside.guest, aside.frames
    aside.frames = frames[count:]
    yield from _release_pages(host, guest, frames[:count])
    if aside.frames.size:
        return
    host.aside = None
    ended = aside.ended
    if not ended and not guest.vcpus:
        ended = yield from _end_configuration(host, guest, "destroy_config")
    _give_back(host, guest, ended)


def kill(host: Host, guest: Guest) -> Step[None]:
    """Row 14: the address space goes: CPUs, the configuration if it can be destroyed fast, export on unmap.

    Otherwise the configuration goes last, with the last reference to the VM. A page that it still pins is
    released only then.
    """
    stopped = yield from _end_cpus(host, guest)
    ended = stopped and (yield from _end_fast(host, guest))
    _, frames = mapped(host.level, guest.table)
    kept = yield from _release_each(host, guest, frames, _export)
    if stopped and not ended:
        ended = yield from _end_configuration(host, guest, "destroy_config")
    yield from _release_for_good(host, guest, kept)
    _forget(host, guest, ended)


def abandon(host: Host, guest: Guest) -> Step[None]:
    """Undo a creation that failed on its way."""
    ended = yield from _end_cpus(host, guest)
    if ended and guest.handle:
        ended = yield from _end_configuration(host, guest, "destroy_config")
    _forget(host, guest, ended)


# -- parts -----------------------------------------------------------------------------------------


def _end_cpus(host: Host, guest: Guest) -> Step[bool]:
    """False if one would not go: then the configuration will not, either."""
    for vcpu in list(guest.vcpus):
        if vcpu.handle:
            outcome = yield from host.ask(host.cpu_of(guest), "destroy_cpu", NODATA, vcpu.handle)
            if outcome.rc != EXECUTED:
                continue
            host.keep("native_vcpu", -1)
        host.pool.give_run(vcpu.storage, host.up.cpu_len >> PAGE_SHIFT)
        host.pool.give([at >> PAGE_SHIFT for at in (vcpu.sie, vcpu.sida) if at != NOTHING])
        guest.vcpus.remove(vcpu)
    return not guest.vcpus


def _end_fast(host: Host, guest: Guest) -> Step[bool]:
    """False if there is no such call, or it is refused (devices may be in its way)."""
    name = "destroy_config_fast"
    if not host.up.calls >> (63 - BY_NAME[name].bit) & 1:
        return False
    return (yield from _end_configuration(host, guest, name))


def _end_configuration(host: Host, guest: Guest, name: str) -> Step[bool]:
    outcome = yield from host.ask(host.cpu_of(guest), name, NODATA, guest.handle)
    return outcome.rc == EXECUTED


def _release_pages(host: Host, guest: Guest, frames: np.ndarray) -> Step[None]:
    """Destroy the pages in these frames and take the frames back."""
    frames = yield from bulk.destroy(host, guest, frames)
    yield from _release_for_good(host, guest, frames)


def _release_for_good(host: Host, guest: Guest, frames: np.ndarray) -> Step[None]:
    kept = yield from _release_each(host, guest, frames, let_go)
    host.leaked += kept.size


def _release_each(
    host: Host, guest: Guest, frames: np.ndarray, release: Callable[[Host, Guest, int], Step[bool]]
) -> Step[np.ndarray]:
    """Take back each frame that `release` frees; the others are returned."""
    freed = []
    for frame in frames.tolist():
        freed.append((yield from release(host, guest, frame)))
    done = np.array(freed, bool)
    take_back(host, frames[done])
    kept: np.ndarray = frames[~done]
    return kept


def _export(host: Host, guest: Guest, frame: int) -> Step[bool]:
    outcome = yield from host.ask(host.cpu_of(guest), "convert_from_secure", PADDR, frame << PAGE_SHIFT)
    return outcome.rc == EXECUTED


def _forget(host: Host, guest: Guest, ended: bool) -> None:
    """The guest is gone."""
    host.guests.pop(guest.number, None)
    _give_back(host, guest, ended)


def _give_back(host: Host, guest: Guest, ended: bool) -> None:
    """All that it took is the host's again.

    What belongs to a configuration or CPU that would not go stays donated for ever.
    """
    if not ended:
        host.leaked += len(guest.vcpus) * ((host.up.cpu_len >> PAGE_SHIFT) + 2)
        host.leaked += (host.up.conf_base_len >> PAGE_SHIFT) + SCA_FRAMES + guest.table.frames
        host.leaked += len(host.home.frames(guest.variable))
        return
    if guest.base != NOTHING:
        host.pool.give_run(guest.base, host.up.conf_base_len >> PAGE_SHIFT)
    if guest.variable != NOTHING:
        host.home.release(guest.variable)
    if guest.sca != NOTHING:
        host.pool.give_run(guest.sca, SCA_FRAMES)
    guest.table.drop()
