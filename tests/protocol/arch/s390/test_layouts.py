"""The layouts that people read are those by which the program reads blocks."""

from __future__ import annotations

import re
from struct import Struct, calcsize

import pytest

from protocol.arch.s390 import structs
from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.layouts import LAYOUTS, Field

ROWS = {row.name: row for row in CALLS.values()}
PROGRAM: dict[str, Struct] = {
    "query": structs._QUERY,
    "init": structs.INIT,
    "create_config": structs._CREATE_CONFIG,
    "create_cpu": structs._CREATE_CPU,
    "set_params": structs.SET_PARAMS,
    "unpack": structs.UNPACK,
    "cpu_set_state": structs.SET_STATE,
    "dump_storage_state": structs.DUMP_STORAGE,
    "dump_cpu": structs.DUMP_AREA,
    "dump_complete": structs.DUMP_AREA,
    "attest": structs.ATTEST,
    "add_secret": structs.GUEST_ADDRESS,
    "list_secrets": structs.LIST_SECRETS,
    "retrieve_secret": structs.RETRIEVE_SECRET,
    **dict.fromkeys(("convert_from_secure", "destroy_storage", "pin"), structs.PADDR),
    **dict.fromkeys(("convert_to_secure", "unpin"), structs.HANDLE_GADDR),
    **dict.fromkeys(("share", "unshare"), structs.SHARE),
    **dict.fromkeys(
        (
            "destroy_config",
            "destroy_config_fast",
            "destroy_cpu",
            "verify",
            "cpu_reset",
            "cpu_reset_initial",
            "cpu_reset_clear",
            "prepare_reset",
            "unshare_all",
            "dump_init",
        ),
        structs.NODATA,
    ),
}
WRITTEN_ALONE = {"query_keys", "lock_secrets"}  # what the program reads of them is nothing


def places(layout: Struct) -> set[tuple[int, int]]:
    """Offset and width of every value; values beside each other that are one field stay apart."""
    found, at = set(), 0
    for count, kind in re.findall(r"(\d*)([a-zA-Z])", layout.format):
        width = calcsize(f">{count or 1}s") if kind in "xs" else calcsize(f">{kind}")
        for _ in range(1 if kind in "xs" else int(count or 1)):
            if kind != "x":
                found.add((at, width))
            at += width
    return found


def spread(field: Field) -> set[tuple[int, int]]:
    """Of the list of calls the program writes the first doubleword; the others are zero."""
    if field.name == "inst_calls_list":
        return {(field.at, 8)}
    return {(field.at, field.width)}


def test_every_call_has_a_layout() -> None:
    assert set(LAYOUTS) == set(ROWS) == set(PROGRAM) | WRITTEN_ALONE


@pytest.mark.parametrize("name", PROGRAM)
def test_fields_are_where_the_program_reads_or_writes_them(name: str) -> None:
    listed = set[tuple[int, int]]().union(*(spread(field) for field in LAYOUTS[name]))
    read = places(PROGRAM[name])
    if name == "query":  # words that the program keeps at zero are not listed
        assert listed <= read
        return
    outputs = {(field.at, field.width) for field in LAYOUTS[name] if field.out}
    assert listed - outputs == read


@pytest.mark.parametrize("name", LAYOUTS)
def test_fields_lie_behind_the_header_inside_the_block_and_apart(name: str) -> None:
    end = 8
    for field in LAYOUTS[name]:
        assert field.at >= end, field
        end = field.at + field.width
    assert end <= ROWS[name].length


@pytest.mark.parametrize("name", [row.name for row in CALLS.values() if row.handle])
def test_the_handle_is_where_the_row_says(name: str) -> None:
    row = ROWS[name]
    (handle,) = (field for field in LAYOUTS[name] if field.kind == "handle" and not field.out)
    assert handle.at == row.handle_at
