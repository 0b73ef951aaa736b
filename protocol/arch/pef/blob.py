"""The ESM blob: digests of what a guest is to be, readable by authorised machines only.

A flattened device tree with one lockbox for each machine, and a sealed inner tree with the SHA-512 digests of
RTAS code, kernel, initrd and command line, the kernel's length, and files that the guest may read once.
The names of nodes and properties are ours; what is in them follows section 1 and 6.1 of the fact sheet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha512
from random import Random

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.arch.pef import fdt, tpm
from protocol.arch.pef.fdt import Node

MEASURED = ("rtas", "kernel", "initrd", "cmdline")  # in the order in which they are checked
FILE_NAME_BYTES = 64


@dataclass(frozen=True, slots=True)
class Digests:
    """What the sealed part says."""

    digests: Mapping[str, bytes]
    kernel_length: int
    files: Mapping[str, bytes] = field(default_factory=dict)


def measure(parts: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: sha512(parts[name]).digest() for name in MEASURED}


def make(
    parts: Mapping[str, bytes], machines: Sequence[bytes], files: Mapping[str, bytes], random: Random
) -> bytes:
    """A blob for `parts` that the TPMs with the public keys `machines` can open."""
    digests = Node(measure(parts) | {"kernel-size": fdt.cell(len(parts["kernel"]))})
    inner = fdt.pack(Node(children={"digests": digests, "files": Node(dict(files))}))
    key, iv = random.randbytes(tpm.KEY_BYTES), random.randbytes(12)
    sealed = Node({"iv": iv, "data": AESGCM(key).encrypt(iv, inner, None)})
    boxes = {
        f"lockbox@{number}": Node(
            {"machine": tpm.machine_id(public), "data": tpm.seal_lockbox(public, key, random)}
        )
        for number, public in enumerate(machines)
    }
    return fdt.pack(
        Node({"compatible": b"esm-blob\0"}, {"lockboxes": Node(children=boxes), "sealed": sealed})
    )


def lockbox_for(blob: Node, public: bytes) -> bytes:
    """The lockbox that this machine can open. Raises ValueError if there is none."""
    wanted = tpm.machine_id(public)
    for box in blob.child("lockboxes").children.values():
        if box.properties.get("machine") == wanted:
            return box.data("data")
    raise ValueError("no lockbox for this machine")


def unsealed(blob: Node, key: bytes) -> Digests:
    """The sealed part. Raises ValueError if `key` is not its key, or it is malformed."""
    sealed = blob.child("sealed")
    try:
        inner = AESGCM(key).decrypt(sealed.data("iv"), sealed.data("data"), None)
    except InvalidTag as wrong:
        raise ValueError("the sealed part was changed") from wrong
    root, _ = fdt.unpack(inner)
    digests = root.child("digests")
    return Digests(
        {name: digests.data(name) for name in MEASURED},
        digests.number("kernel-size"),
        dict(root.child("files").properties),
    )
