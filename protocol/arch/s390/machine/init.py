"""Query and Initialize: the calls of a host that are about the Ultravisor itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocol.arch.s390 import checks
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.profiles import (
    ATTESTATION_FLAGS,
    DUMP_FINALIZE_LEN,
    DUMP_STORAGE_LEN,
    MAX_ASSOCIATIONS,
    MAX_RETRIEVABLE,
    PCF,
    Profile,
)
from protocol.arch.s390.structs import (
    DONE,
    HEADER,
    INIT,
    INV_LEN,
    MORE_DATA,
    QUI_MINIMUM,
    Outcome,
    Query,
)
from protocol.calls import CallSpec

if TYPE_CHECKING:
    from protocol.arch.s390.machine import Machine

HEADER_VERSION_1 = 0x8000_0000_0000_0000
ATTESTATION_VERSION_1 = 0x8000_0000_0000_0000
ADD_SECRET = 0x1031
SECRET_VERSION_1 = 0x8000_0000_0000_0000
SECRET_FLAGS = 0x8000_0000_0000_0000  # dumps can be disabled
SECRET_TYPES = 0x7000_0200_0000_0000  # bits 1, 2, 3 and 22: the kinds of `evidence.secrets`


def host_view(profile: Profile, calls: Mapping[int, CallSpec]) -> Query:
    """What a host with `calls` installed is told."""
    return Query(
        calls=installed(calls),
        base_len=profile.base_len,
        conf_base_len=profile.conf_base_len,
        conf_virtual_len=profile.conf_virtual_len,
        conf_variable_len=profile.conf_variable_len,
        cpu_len=profile.cpu_len,
        max_configs=profile.max_configs,
        max_storage=profile.max_storage,
        max_cpu_id=profile.max_cpu_id,
        features=profile.features,
        header_versions=HEADER_VERSION_1,
        pcf=PCF,
        dump_storage_len=DUMP_STORAGE_LEN,
        dump_finalize_len=DUMP_FINALIZE_LEN,
        attestation_versions=0,
        attestation_flags=0,
        length=profile.query_len,
    )


def guest_view(profile: Profile, calls: Mapping[int, CallSpec]) -> Query:
    """What a secure guest is told: only what concerns a guest. The limits of its secrets are guesses."""
    secrets = ADD_SECRET in calls
    return Query(
        calls=installed(calls),
        base_len=0,
        conf_base_len=0,
        conf_virtual_len=0,
        conf_variable_len=0,
        cpu_len=0,
        max_configs=0,
        max_storage=profile.max_storage,
        max_cpu_id=0,
        features=profile.features,
        header_versions=0,
        pcf=0,
        dump_storage_len=0,
        dump_finalize_len=0,
        attestation_versions=ATTESTATION_VERSION_1,
        attestation_flags=ATTESTATION_FLAGS,
        secret_versions=SECRET_VERSION_1 if secrets else 0,
        secret_flags=SECRET_FLAGS if secrets else 0,
        secret_types=SECRET_TYPES if secrets else 0,
        max_associations=MAX_ASSOCIATIONS if secrets else 0,
        max_retrievable=MAX_RETRIEVABLE if secrets else 0,
        length=profile.query_len,
    )


def installed(calls: Mapping[int, CallSpec]) -> int:
    return sum(1 << (63 - spec.bit) for spec in calls.values() if spec.bit >= 0)


def answer_query(view: Query, block: bytes) -> Outcome:
    """Section 4: the data up to the given length are valid even where there would be more."""
    length = HEADER.unpack_from(block)[0]
    if length < QUI_MINIMUM:
        return Outcome(INV_LEN)
    data = view.pack()[: length - 0x10]
    return Outcome(MORE_DATA if length < view.length else 1, 0, ((0x10, data),))


def query(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    return answer_query(host_view(uv.profile, uv.calls), block)


def initialize(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    plan = checks.init(uv, *INIT.unpack_from(block))
    if isinstance(plan, int):
        return Outcome(plan)
    uv.donate(plan.frames)
    uv.base = plan.frames
    uv.ready = True
    return DONE


def query_keys(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    """Host key hash at index 0; there is no backup key."""
    return answer_keys(uv.seed)


def answer_keys(seed: int) -> Outcome:
    from protocol.arch.s390.image import host_key

    return Outcome(1, 0, ((0x20, host_key(seed, "host").public_hash + bytes(14 * 32)),))
