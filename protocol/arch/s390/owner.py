"""The owner of a secure guest at the command line: builds an image from files, reads it, measures it.

Components lie as ibm-s390-linux/s390-tools `rust/pvimg/src/cmd/create.rs` orders them: kernel, initial RAM
disk, command line, in ascending addresses. Where exactly is a choice of this emulator: the kernel where Linux
expects it, the others on the pages that follow. The boot stages that the real builder adds are left out, and
nothing here runs the kernel's code: a guest's program is given to the emulator in another way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from protocol.arch.s390.image import Component, Digests, HostKey, Image, build, host_key
from protocol.arch.s390.image.build import ImagePage
from protocol.arch.s390.image.file import looks_like_one, pack_file, pages_in, unpack_file
from protocol.arch.s390.image.header import (
    FIXED_BYTES,
    PCF_ALLOW_DUMP,
    PCF_BACKUP_KEY,
    PCF_PLAIN_COMPONENTS,
    SECRETS_BYTES,
    SLOT_BYTES,
    TAG_BYTES,
    VERSION_1,
    Fixed,
    Slot,
    unpack_slots,
)
from protocol.arch.s390.image.keys import public_key
from protocol.arch.s390.profiles import PCF

KERNEL_AT = 0x10000  # where Linux's own entry is
PAGE = 4096
FILES_MAX = 512 << 20  # bytes of all components
PARTS = (("kernel", 1), ("initrd", 2), ("cmdline", 3))  # in load order, with the prefix of their tweaks
KEY_MANAGEMENT = sum(1 << (63 - bit) for bit in (56, 57, 58, 59))
FLAG_WORDS = {
    PCF_ALLOW_DUMP: "the host may dump the guest",
    PCF_PLAIN_COMPONENTS: "components are not encrypted",
    PCF_BACKUP_KEY: "a backup host key will do",
    KEY_MANAGEMENT: "key management functions",
}


class S390Owner:
    """See `protocol.arch.contract.Owner`."""

    flags = "pcf", "scf"

    def build(
        self,
        parts: Mapping[str, bytes],
        *,
        seed: int,
        machines: Sequence[int] = (),
        host_keys: Sequence[bytes] = (),
        psw: bytes | None = None,
        flags: Mapping[str, int] | None = None,
    ) -> tuple[bytes, bytes]:
        """The bytes of an image file, and the key that the owner keeps. Raises ValueError."""
        flags = flags or {}
        components = list(place(parts))
        if not machines and not host_keys:
            raise ValueError("an image without a key slot is opened by nobody")
        slots = [host_key(machine, "host") for machine in machines] + _keys(host_keys)
        image = build(
            components,
            seed=seed,
            digest=_digest(components, slots, psw, flags),
            slots=slots,
            psw=psw,
            pcf=flags.get("pcf", 0),
            scf=flags.get("scf", 0),
        )
        return pack_file(image), image.cck

    def is_image(self, head: bytes) -> bool:
        """Whether a file with these first bytes means to be an image."""
        return looks_like_one(head)

    def pages(self, head: bytes, size: int, seed: int) -> int:
        """How many pages an image file of `size` bytes holds, for the machine of `seed`. Raises ValueError.

        `head` has the whole header.
        """
        count = pages_in(head, size)
        if not count:
            raise ValueError("it is a header alone, without the pages")
        fixed = Fixed.unpack(head)
        key = host_key(seed, "host").public_hash
        if all(slot.key_hash != key for slot in _slots(head[: fixed.size], fixed)):
            raise ValueError(
                f"it has no key slot for the machine of seed {seed}; build it with --seed {seed}, or run "
                f"with the seed that it was built with"
            )
        return count

    def no_dumps(self, head: bytes) -> str:
        """Why guests of an image cannot be dumped, and what to do about it; nothing if they can."""
        if Fixed.unpack(head).pcf & PCF_ALLOW_DUMP:
            return ""
        return f"its header does not allow dumps (run.dumps); build it with --pcf {PCF_ALLOW_DUMP:#x}"

    def describe(self, data: bytes, machines: Sequence[int]) -> list[tuple[str, str]]:
        """What an image file says, in words. Raises ValueError for one that is none."""
        return list(_words(unpack_file(data), machines))

    def measure(self, data: bytes) -> tuple[list[tuple[str, str]], str]:
        """PLD, ALD and TLD of the pages in a file, and what the header says otherwise. Raises ValueError."""
        image = unpack_file(data)
        if not image.pages:
            raise ValueError("it is a header alone, without the pages")
        digests = digests_of(image.pages)
        reason = digests.compare(Fixed.unpack(image.header))
        complaint = ""
        if reason is not None:
            complaint = f"the pages are not those of the header: Verify answers 0x0102, reason {reason:#06x}"
        found = (("PLD", digests.pld), ("ALD", digests.ald), ("TLD", digests.tld))
        return [(name, each.hex()) for name, each in found], complaint


def _keys(given: Sequence[bytes]) -> list[HostKey]:
    """The keys of PEM files. Raises ValueError with the number of the file: names are not known here."""
    found = []
    for number, pem in enumerate(given, 1):
        try:
            found.append(public_key(pem))
        except ValueError as error:
            raise ValueError(f"host key {number}: {error}") from None
    return found


def place(parts: Mapping[str, bytes]) -> Iterator[Component]:
    """Components at their addresses, each on the pages behind the one before it. Raises ValueError."""
    unknown = set(parts) - {name for name, _ in PARTS}
    if unknown or "kernel" not in parts:
        raise ValueError(
            f"an image has a kernel, and may have an initrd and a cmdline, not {sorted(unknown)}"
        )
    total = sum(len(data) for data in parts.values())
    if total > FILES_MAX:
        raise ValueError(f"{total} bytes in all; at most {FILES_MAX} are allowed")
    at = KERNEL_AT
    for name, prefix in PARTS:
        if name in parts:
            component = Component(at, parts[name], prefix)
            yield component
            at = component.end


def digests_of(pages: Iterable[ImagePage]) -> Digests:
    """What Unpack of these pages, in this order, leaves behind."""
    digests = Digests()
    for page in pages:
        digests.add(page.gaddr, page.tweak, page.data)
    return digests


def _digest(
    components: Sequence[Component], slots: Sequence[HostKey], psw: bytes | None, flags: Mapping[str, int]
) -> bytes:
    """Tells requests apart: two that differ share no key."""
    asked = hashlib.sha256(b"image file")
    for component in components:
        said = (component.gaddr, component.tweak, len(component.data))
        asked.update(repr(said).encode() + hashlib.sha256(component.data).digest())
    for slot in slots:
        asked.update(slot.public_hash)
    asked.update(repr((psw, sorted(flags.items()))).encode())
    return asked.digest()


# -- words -------------------------------------------------------------------------------------------------


def _words(image: Image, machines: Sequence[int]) -> Iterator[tuple[str, str]]:
    fixed = Fixed.unpack(image.header)
    yield "magic", fixed.magic.decode("ascii", "backslashreplace")
    yield "version", _known(f"{fixed.version:#x}", fixed.version == VERSION_1, "version 1", "not known")
    yield "header", f"{fixed.size} bytes, {fixed.area_bytes} of them encrypted"
    yield "initialisation vector", fixed.iv.hex()
    yield "pages", f"{fixed.pages} of {PAGE} bytes ({fixed.pages * PAGE:,} bytes)"
    yield "plaintext flags", f"{fixed.pcf:#018x}: {_flags(fixed.pcf)}"
    for number, slot in enumerate(_slots(image.header, fixed)):
        yield f"key slot {number}", f"{slot.key_hash.hex()}: {_machine(slot.key_hash, machines)}"
    yield "owner's public key", fixed.customer_key.hex()
    yield "PLD", fixed.pld.hex()
    yield "ALD", fixed.ald.hex()
    yield "TLD", fixed.tld.hex()
    yield "tag", image.header[-TAG_BYTES:].hex()
    for first, last, prefix in components_of(image.pages):
        count = (last - first) // PAGE + 1
        yield f"component {prefix:#x}", f"{count} pages at {first:#x} to {last + PAGE:#x}"
    if not image.pages:
        yield "components", "none here: the file is a header alone"


def _known(value: str, known: bool, word: str, other: str) -> str:
    return f"{value}: {word if known else other}"


def _slots(header: bytes, fixed: Fixed) -> tuple[Slot, ...]:
    room = len(header) - FIXED_BYTES - SECRETS_BYTES - TAG_BYTES
    count = min(fixed.slots, room // SLOT_BYTES)
    return unpack_slots(header[FIXED_BYTES : FIXED_BYTES + count * SLOT_BYTES])


def _flags(value: int) -> str:
    words = [word for mask, word in FLAG_WORDS.items() if value & mask]
    left = value & ~sum(FLAG_WORDS)
    if left:
        words.append(f"{left:#x} without a name")
    if value & ~PCF:
        words.append(f"{value & ~PCF:#x} not offered by the machine here")
    return "; ".join(words) or "none"


def _machine(key_hash: bytes, machines: Sequence[int]) -> str:
    for seed in machines:
        if key_hash == host_key(seed, "host").public_hash:
            return f"the emulated machine of seed {seed}"
    return "another machine"


def components_of(pages: Sequence[ImagePage]) -> Iterator[tuple[int, int, int]]:
    """First page, last page and prefix of each run of pages with one prefix and ascending addresses."""
    run: tuple[int, int, int] | None = None
    for page in pages:
        if run is not None and page.tweak[0] == run[2] and page.gaddr == run[1] + PAGE:
            run = (run[0], page.gaddr, run[2])
            continue
        if run is not None:
            yield run
        run = (page.gaddr, page.gaddr, page.tweak[0])
    if run is not None:
        yield run


OWNER = S390Owner()
