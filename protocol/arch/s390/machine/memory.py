"""Pages of secure guests: import, export, destroy, unpack, pin. Section 5.5 of the fact sheet.

No source gives per-call codes beyond 0x010A, 0x0104 (import) and 0x0107; the others here are guesses and
named so. A guest page is resident in at most one frame. Outside, it is ciphertext bound to its address and to
a generation that only the Ultravisor knows: nothing else imports, nowhere else, and no older copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390 import dat
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine.entities import Config, ConfigState, PageState
from protocol.arch.s390.structs import DONE, HANDLE_GADDR, INV_STATE, PADDR, UNPACK, Outcome
from protocol.effects import Fault
from protocol.memory.store import OFFSET, PAGE, PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.machine import Machine

OUTSIDE = Outcome(0x0101)  # guess, by analogy with Share, where it is sourced
UNALIGNED = Outcome(0x0102)  # guess
NOT_IMPORTABLE = Outcome(0x0103)  # guess: the frame is donated or somebody else's
ALREADY_SECURE = Outcome(0x0104)
RESIDENT_ELSEWHERE = Outcome(0x0105)  # guess
NOT_AUTHENTIC = Outcome(0x0106)  # guess
NOT_MAPPED = Outcome(0x010A)
IS_DONATED = Outcome(0x0103)  # guess, for calls that name a host page
IS_PINNED = Outcome(0x0104)  # guess
NOT_SHARED = Outcome(0x0105)  # guess
NOT_DECRYPTED = 1 << (63 - 35)  # plaintext control flag 35: components are not encrypted


def convert_to_secure(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    handle, gaddr = HANDLE_GADDR.unpack_from(block)
    config = uv.configs[handle]
    frame = _frame(uv, config, gaddr)
    if isinstance(frame, Outcome):
        return frame
    refusal = _importable(uv, config, gaddr >> PAGE_SHIFT, frame)
    if refusal is not None:
        return refusal
    page = gaddr >> PAGE_SHIFT
    proof = config.exported.get(page)
    if proof is not None:
        from protocol.arch.s390.image import unseal_page

        plain = unseal_page(config.key, gaddr, proof[0], uv.storage.read(frame << PAGE_SHIFT, PAGE), proof[1])
        if plain is None:
            return NOT_AUTHENTIC
        del config.exported[page]
        uv.storage.vault_write(frame, 0, plain)
    _own(uv, config, page, frame)
    return DONE


def unpack(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    handle, gaddr, prefix, offset = UNPACK.unpack_from(block)
    config = uv.configs[handle]
    if config.state not in (ConfigState.PARAMS_SET, ConfigState.UNPACKING):
        return Outcome(INV_STATE)
    frame = _frame(uv, config, gaddr)
    if isinstance(frame, Outcome):
        return frame
    refusal = _importable(uv, config, gaddr >> PAGE_SHIFT, frame)
    if refusal is not None:
        return refusal
    from protocol.arch.s390.image import decrypt_page

    assert config.params is not None
    assert config.digests is not None
    encrypted = uv.storage.read(frame << PAGE_SHIFT, PAGE)
    tweak = (prefix, offset)
    config.digests.add(gaddr, tweak, encrypted)
    plain = (
        encrypted
        if config.params.pcf & NOT_DECRYPTED
        else decrypt_page(config.params.xts_key, tweak, encrypted)
    )
    _own(uv, config, gaddr >> PAGE_SHIFT, frame)
    uv.storage.vault_write(frame, 0, plain)
    config.exported.pop(gaddr >> PAGE_SHIFT, None)  # the image's page takes the place of what was outside
    config.state = ConfigState.UNPACKING
    return DONE


def convert_from_secure(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    """Export. A page that no guest owns is exported already."""
    frame = _host_frame(uv, PADDR.unpack_from(block)[0])
    if isinstance(frame, Outcome):
        return frame
    state = uv.states[frame]
    if state == PageState.NORMAL:
        return DONE
    config = uv.by_serial.get(int(uv.owner[frame]))
    if config is None:
        _drop(uv, frame)  # its key is gone with its owner
        return DONE
    if state == PageState.PINNED:
        return IS_PINNED
    from protocol.arch.s390.image import seal_page

    page = int(uv.guest_page[frame])
    config.generation += 1
    cipher, proof = seal_page(config.key, page << PAGE_SHIFT, config.generation, plaintext(uv, frame))
    config.exported[page] = (config.generation, proof)
    _disown(uv, config, page, frame)
    uv.storage.write(frame << PAGE_SHIFT, cipher)
    return DONE


def destroy_storage(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    """The page becomes the host's, zero. Newer firmware answers success for a page that is not secure."""
    frame = _host_frame(uv, PADDR.unpack_from(block)[0])
    if isinstance(frame, Outcome):
        return frame
    state = uv.states[frame]
    if state == PageState.NORMAL:
        return DONE
    config = uv.by_serial.get(int(uv.owner[frame]))
    if config is not None:
        if state == PageState.PINNED:
            return IS_PINNED
        _disown(uv, config, int(uv.guest_page[frame]), frame)
    else:
        _drop(uv, frame)
    return DONE


def pin(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    frame = _host_frame(uv, PADDR.unpack_from(block)[0])
    if isinstance(frame, Outcome):
        return frame
    if (
        uv.states[frame] not in (PageState.SHARED, PageState.PINNED)
        or int(uv.owner[frame]) not in uv.by_serial
    ):
        return NOT_SHARED  # what an ended guest left behind cannot be unpinned any more
    uv.states[frame] = PageState.PINNED
    return DONE


def unpin(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    handle, gaddr = HANDLE_GADDR.unpack_from(block)
    config = uv.configs[handle]
    frame = _frame(uv, config, gaddr)
    if isinstance(frame, Outcome):
        return frame
    if uv.states[frame] != PageState.PINNED or not owns(uv, config, gaddr >> PAGE_SHIFT, frame):
        return NOT_SHARED
    uv.states[frame] = PageState.SHARED
    return DONE


# -- frames and owners ---------------------------------------------------------------------------------------


def _frame(uv: Machine, config: Config, gaddr: int) -> int | Outcome:
    """The frame that the host's table maps, writable, for a page of the guest."""
    if gaddr >> PAGE_SHIFT >= config.pages:
        return OUTSIDE
    if gaddr & OFFSET:
        return UNALIGNED
    absolute = dat.walk(uv.read, config.asce, config.mso + gaddr, True)
    if isinstance(absolute, Fault) or absolute >= uv.size:
        return NOT_MAPPED
    return absolute >> PAGE_SHIFT


def _host_frame(uv: Machine, paddr: int) -> int | Outcome:
    if paddr >= uv.size:
        return OUTSIDE
    if paddr & OFFSET:
        return UNALIGNED
    frame = paddr >> PAGE_SHIFT
    return IS_DONATED if uv.states[frame] == PageState.DONATED else frame


def owns(uv: Machine, config: Config, page: int, frame: int) -> bool:
    return bool(uv.owner[frame] == config.serial and uv.guest_page[frame] == page)


def _importable(uv: Machine, config: Config, page: int, frame: int) -> Outcome | None:
    state = uv.states[frame]
    if state == PageState.NORMAL:
        return RESIDENT_ELSEWHERE if config.is_resident(page) else None
    if state != PageState.DONATED and owns(uv, config, page, frame):
        return ALREADY_SECURE
    other = uv.by_serial.get(int(uv.owner[frame]))
    if state != PageState.SHARED or other is config or other is None:
        return NOT_IMPORTABLE
    return RESIDENT_ELSEWHERE if config.is_resident(page) else None


def _own(uv: Machine, config: Config, page: int, frame: int) -> None:
    """The frame becomes the guest's page. What was in RAM is gone; what the vault holds is the content."""
    if uv.states[frame] == PageState.SHARED:  # shared by another guest: ownership moves (feature MISC)
        other = uv.by_serial[int(uv.owner[frame])]
        other.resident[int(uv.guest_page[frame])] = 0
        other.shared.pop(frame, None)
    uv.storage.clear(frame)
    uv.states[frame] = PageState.SECURE
    uv.owner[frame] = config.serial
    uv.guest_page[frame] = page
    config.reach(page)
    config.resident[page] = frame + 1


def _disown(uv: Machine, config: Config, page: int, frame: int) -> None:
    config.resident[page] = 0
    config.shared.pop(frame, None)
    _drop(uv, frame)


def _drop(uv: Machine, frame: int) -> None:
    """The frame becomes plain memory of the host, zero."""
    uv.states[frame] = PageState.NORMAL
    uv.owner[frame] = 0
    uv.guest_page[frame] = 0
    uv.storage.vault_clear(frame)
    uv.storage.clear(frame)


def plaintext(uv: Machine, frame: int) -> bytes:
    """What the guest sees in a page that it owns."""
    if uv.states[frame] == PageState.SECURE:
        return uv.storage.vault_read(frame, 0, PAGE)
    return uv.storage.read(frame << PAGE_SHIFT, PAGE)


def share(uv: Machine, config: Config, frame: int) -> None:
    """The guest lets the host in: the same bytes, now in RAM."""
    plain = uv.storage.vault_read(frame, 0, PAGE)
    uv.storage.vault_clear(frame)
    uv.storage.write(frame << PAGE_SHIFT, plain)
    uv.states[frame] = PageState.SHARED
    config.shared[frame] = None


def unshare(uv: Machine, config: Config, frame: int) -> None:
    """The page is the guest's alone again, pinned or not."""
    uv.storage.vault_write(frame, 0, uv.storage.read(frame << PAGE_SHIFT, PAGE))
    uv.storage.clear(frame)
    uv.states[frame] = PageState.SECURE
    config.shared.pop(frame, None)
