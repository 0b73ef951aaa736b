"""What a VMM's boot puts into a guest's memory: kernel, initrd, RTAS area, device tree, ESM blob.

Each lies on pages of its own with an unused page before it; contents are made from a seed. The device tree
reserves what the areas and the unused pages take, and everything below the first area, so that the
ultravisor's own shared pages find their place beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from protocol.arch.pef import blob, fdt
from protocol.arch.pef.fdt import Node
from protocol.arch.pef.tables import PAGE

RTAS_BYTES = PAGE
SHARED_PAGES = 7  # that the ultravisor takes beside the areas
FDT_ALIGN = 2 * PAGE
FILE = "secret"  # the one that every blob carries
FILE_BYTES = 100
LARGEST = 1 << 28  # of a kernel or an initrd


@dataclass(frozen=True, slots=True)
class Area:
    """One area: guest address and contents."""

    address: int
    data: bytes

    @property
    def end(self) -> int:
        """First address behind its last page."""
        return -(-(self.address + len(self.data)) // PAGE) * PAGE


def build(
    at: int,
    end: int,
    memory: tuple[int, int],
    kernel: int | bytes,
    initrd: int,
    cmdline: str,
    tpm: bytes,
    seed: str,
) -> Mapping[str, Area]:
    """Areas from `at` on, below `end`; `memory` is the slot (address, size) that the tree describes.

    `kernel` is its contents, or how long it is made. Raises ValueError if they do not fit.
    """
    random = Random(seed)
    parts = {
        "rtas": random.randbytes(RTAS_BYTES),
        "kernel": kernel if isinstance(kernel, bytes) else random.randbytes(kernel),
        "initrd": random.randbytes(initrd),
        "cmdline": cmdline.encode(),
    }
    secret = {FILE: random.randbytes(FILE_BYTES)}
    sealed = blob.make(parts, (tpm,), secret, random)
    places = {"kernel": -(-at // PAGE) * PAGE}
    after = Area(places["kernel"], parts["kernel"]).end
    places["fdt"] = -(-(after + PAGE) // FDT_ALIGN) * FDT_ALIGN
    tree_bytes = len(_tree(memory, places | {"rtas": 0, "initrd": 0, "blob": 0}, parts, sealed, []))
    tree_bytes += 16 * (len(places) + 4)  # the reserved areas
    after = places["fdt"] + -(-tree_bytes // PAGE) * PAGE
    for name, data in (("rtas", parts["rtas"]), ("initrd", parts["initrd"]), ("blob", sealed)):
        places[name] = after + PAGE
        after = Area(places[name], data).end
    if after + SHARED_PAGES * PAGE > end:
        raise ValueError(
            f"areas end at {after:#x}, the memory at {end:#x}, and {SHARED_PAGES} pages stay free"
        )
    contents = {name: parts[name] for name in ("kernel", "rtas", "initrd")} | {"blob": sealed}
    areas = {name: Area(places[name], contents[name]) for name in contents}
    reserved = [(memory[0], places["kernel"] - memory[0])] if places["kernel"] > memory[0] else []
    reserved.append((places["kernel"], after - places["kernel"]))
    areas["fdt"] = Area(places["fdt"], _tree(memory, places, parts, sealed, reserved))
    return areas


def _tree(
    memory: tuple[int, int],
    places: Mapping[str, int],
    parts: Mapping[str, bytes],
    sealed: bytes,
    reserved: list[tuple[int, int]],
) -> bytes:
    chosen = Node(
        {
            "bootargs": parts["cmdline"] + b"\0",
            "linux,initrd-start": fdt.cell(places["initrd"]),
            "linux,initrd-end": fdt.cell(places["initrd"] + len(parts["initrd"])),
            "linux,esm-blob-start": fdt.cell(places["blob"]),
            "linux,esm-blob-end": fdt.cell(places["blob"] + len(sealed)),
        }
    )
    rtas = Node({"linux,rtas-base": fdt.cell(places["rtas"]), "rtas-size": fdt.cell(len(parts["rtas"]))})
    ram = Node({"device_type": b"memory\0", "reg": fdt.cell(memory[0]) + fdt.cell(memory[1])})
    root = Node({"compatible": b"ibm,pseries\0"}, {"chosen": chosen, "rtas": rtas, "memory": ram})
    return fdt.pack(root, reserved)
