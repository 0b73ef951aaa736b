"""Runs of equal page operations on the machine's page table of states, in one step each.

The state that they leave is that of the single calls in `memory` and `guest`; nothing is counted here. The
callers know that the calls would succeed: `plain`, `importable` and `destroyable` say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390.machine.entities import Config, ConfigState, PageState
from protocol.arch.s390.machine.memory import NOT_DECRYPTED
from protocol.arch.s390.machine.memory import share as share_one
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.image import ImagePage
    from protocol.arch.s390.machine import Machine


def plain(uv: Machine, frames: np.ndarray) -> np.ndarray:
    """Which frames are the host's own."""
    own: np.ndarray = uv.state[frames] == PageState.NORMAL
    return own


def importable(uv: Machine, handle: int, pages: np.ndarray) -> bool:
    """None of the pages is resident, or outside as ciphertext."""
    config = uv.configs[handle]
    if pages.size and int(pages.max()) >= config.pages:
        return False
    if config.exported and not config.exported.keys().isdisjoint(pages.tolist()):
        return False
    return not config.resident[pages[pages < config.resident.size]].any()


def bring_in(uv: Machine, handle: int, pages: np.ndarray, frames: np.ndarray) -> None:
    """Convert to Secure: each page becomes the guest's, zero, in its frame."""
    _own(uv, uv.configs[handle], pages, frames)


def unpack(uv: Machine, handle: int, frames: np.ndarray, encrypted: Sequence[ImagePage]) -> None:
    """Unpack pages of an image in the order given."""
    from protocol.arch.s390.image import decrypt_page

    config = uv.configs[handle]
    assert config.params is not None
    assert config.digests is not None
    plain = config.params.pcf & NOT_DECRYPTED
    key = config.params.xts_key
    for page in encrypted:
        config.digests.add(page.gaddr, page.tweak, page.data)
    _own(uv, config, np.array([page.gaddr >> PAGE_SHIFT for page in encrypted], np.int64), frames)
    for page, frame in zip(encrypted, frames.tolist(), strict=True):
        uv.storage.vault_write(frame, 0, page.data if plain else decrypt_page(key, page.tweak, page.data))
    config.state = ConfigState.UNPACKING


def share(uv: Machine, handle: int, pages: np.ndarray) -> None:
    """The guest shares pages of its own that are resident and private."""
    config = uv.configs[handle]
    frames = config.resident[pages].astype(np.int64) - 1
    filled = np.array([not uv.storage.vault_is_clear(frame) for frame in frames.tolist()], bool)
    for frame in frames[filled].tolist():
        share_one(uv, config, frame)
    uv.state[frames] = PageState.SHARED
    config.shared.update(dict.fromkeys(frames.tolist()))


def destroyable(uv: Machine, frames: np.ndarray) -> np.ndarray:
    """Which of the frames Destroy Secure Storage would free, all in the same way."""
    states = uv.state[frames]
    owners, of = np.unique(uv.owner[frames], return_inverse=True)
    living = np.array([serial in uv.by_serial for serial in owners.tolist()], bool)[of]
    free: np.ndarray = (states != PageState.DONATED) & ~((states == PageState.PINNED) & living)
    return free


def destroy(uv: Machine, frames: np.ndarray) -> None:
    """Destroy Secure Storage: the frames become the host's, zero."""
    held = frames[uv.state[frames] != PageState.NORMAL]
    for serial in np.unique(uv.owner[held]).tolist():
        config = uv.by_serial.get(serial)
        if config is not None:
            its = held[uv.owner[held] == serial]
            config.resident[uv.guest_page[its]] = 0
            for frame in its.tolist() if config.shared else ():
                config.shared.pop(frame, None)
    uv.state[held] = PageState.NORMAL
    uv.owner[held] = 0
    uv.guest_page[held] = 0
    uv.storage.vault_clear_many(held)
    uv.storage.clear_many(held)


def _own(uv: Machine, config: Config, pages: np.ndarray, frames: np.ndarray) -> None:
    uv.storage.clear_many(frames)
    uv.state[frames] = PageState.SECURE
    uv.owner[frames] = config.serial
    uv.guest_page[frames] = pages
    if pages.size:
        config.reach(int(pages.max()))
    config.resident[pages] = frames + 1
