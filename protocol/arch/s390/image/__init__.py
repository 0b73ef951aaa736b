"""Secure Execution images: what the owner builds and what the Ultravisor opens.

    header    the SE header, version 1: bytes <-> values
    keys      host keys, the key slots, AES-GCM
    pages     page encryption, the three digests, export of secure pages
    build     the owner's workbench: components in, header and encrypted pages out
    unseal    what the Ultravisor does with a header at Set Parameters

Everything is a function of its arguments: keys and initialisation vectors come from a seed, never from a
random source. Importing this package does not load the cryptography library; the first use does.
"""

from protocol.arch.s390.image.build import Component, Image, ImageError, ImagePage, build
from protocol.arch.s390.image.header import PCF_ALLOW_DUMP, PCF_BACKUP_KEY, PCF_PLAIN_COMPONENTS, SCF_KNOWN
from protocol.arch.s390.image.keys import HostKey, host_key
from protocol.arch.s390.image.pages import (
    Digests,
    ExportKey,
    decrypt_page,
    encrypt_page,
    export_key,
    final_tweak,
    seal_page,
    tweak_component,
    unseal_page,
)
from protocol.arch.s390.image.unseal import Refusal, Unsealed, unseal

__all__ = [
    "PCF_ALLOW_DUMP",
    "PCF_BACKUP_KEY",
    "PCF_PLAIN_COMPONENTS",
    "SCF_KNOWN",
    "Component",
    "Digests",
    "ExportKey",
    "HostKey",
    "Image",
    "ImageError",
    "ImagePage",
    "Refusal",
    "Unsealed",
    "build",
    "decrypt_page",
    "encrypt_page",
    "export_key",
    "final_tweak",
    "host_key",
    "seal_page",
    "tweak_component",
    "unseal",
    "unseal_page",
]
