"""Which field lies where in a control block, and what kind of address it is: section 2.1 of the fact sheet.

For people: documentation is made of it, and a test holds it against `structs`, by which the program reads
blocks. Every block begins with the header (length, command, return code, return reason code; 2 bytes each);
what is not listed is reserved and zero.
"""

from __future__ import annotations

from typing import NamedTuple

ABSOLUTE = "host absolute address"
HOME = "home-space virtual address"
GUEST = "guest absolute address"
INSIDE = "address in the guest, as its CPU has it"
HANDLE = "handle"
NUMBER = "number"
BYTES = "bytes"


class Field(NamedTuple):
    """One field. `out`: the Ultravisor writes it."""

    at: int
    width: int
    name: str
    kind: str
    text: str = ""
    out: bool = False


_CONFIG = Field(0x18, 8, "config handle", HANDLE)
_CPU = Field(0x18, 8, "cpu handle", HANDLE)
_PADDR = (Field(0x18, 8, "paddr", ABSOLUTE, "a page"),)
_GADDR = (_CONFIG, Field(0x20, 8, "gaddr", GUEST, "a page"))
_SHARED = (Field(0x20, 8, "paddr", INSIDE, "a page; at 0x20, not at 0x18"),)
_AREA = Field(0x20, 8, "dump_area_origin", HOME, "as long as the query says")

LAYOUTS: dict[str, tuple[Field, ...]] = {
    "query": (
        Field(
            0x10, 32, "inst_calls_list", BYTES, "one bit for each installed call, the first leftmost", True
        ),
        Field(0x40, 8, "uv_base_stor_len", NUMBER, "", True),
        Field(0x50, 8, "conf_base_phys_stor_len", NUMBER, "", True),
        Field(0x58, 8, "conf_base_virt_stor_len", NUMBER, "", True),
        Field(0x60, 8, "conf_virt_var_stor_len", NUMBER, "for each MiB of a guest", True),
        Field(0x68, 8, "cpu_stor_len", NUMBER, "", True),
        Field(0x7C, 4, "max_num_sec_conf", NUMBER, "", True),
        Field(0x80, 8, "max_guest_stor_addr", NUMBER, "", True),
        Field(0x9E, 2, "max_guest_cpu_id", NUMBER, "", True),
        Field(0xA0, 8, "uv_feature_indications", BYTES, "", True),
        Field(0xB0, 8, "supp_se_hdr_versions", BYTES, "", True),
        Field(0xB8, 8, "supp_se_hdr_pcf", BYTES, "", True),
        Field(0xC8, 8, "conf_dump_storage_state_len", NUMBER, "for each MiB of a guest", True),
        Field(0xD0, 8, "conf_dump_finalize_len", NUMBER, "", True),
        Field(0xE0, 8, "supp_att_req_hdr_ver", BYTES, "", True),
        Field(0xE8, 8, "supp_att_pflags", BYTES, "", True),
        Field(0xF8, 8, "supp_add_secret_req_ver", BYTES, "", True),
        Field(0x100, 8, "supp_add_secret_pcf", BYTES, "", True),
        Field(0x108, 8, "supp_secret_types", BYTES, "", True),
        Field(0x110, 2, "max_assoc_secrets", NUMBER, "", True),
        Field(0x112, 2, "max_retr_secrets", NUMBER, "", True),
    ),
    "query_keys": (Field(0x20, 480, "key_hashes", BYTES, "15 of 32 bytes: host key, backup host key", True),),
    "init": (
        Field(0x18, 8, "stor_origin", ABSOLUTE, "masked to 1 MiB; above 2 GiB"),
        Field(0x20, 8, "stor_len", NUMBER, "masked to pages"),
    ),
    "create_config": (
        Field(0x18, 8, "guest_handle", HANDLE, "", True),
        Field(0x20, 8, "conf_base_stor_origin", ABSOLUTE, "contiguous"),
        Field(0x28, 8, "conf_virt_stor_origin", HOME, "contiguous in the home space alone"),
        Field(0x36, 2, "flags", BYTES, "0x0001 AP instructions, 0x0002 AP interrupts"),
        Field(0x38, 8, "guest_stor_origin", NUMBER, "MSO"),
        Field(0x40, 8, "guest_stor_len", NUMBER),
        Field(0x48, 8, "guest_sca", ABSOLUTE),
        Field(
            0x50, 8, "guest_asce", BYTES, "the host's table for the guest: guest absolute to host absolute"
        ),
    ),
    "destroy_config": (_CONFIG,),
    "destroy_config_fast": (_CONFIG,),
    "create_cpu": (
        Field(0x18, 8, "cpu_handle", HANDLE, "", True),
        Field(0x20, 8, "guest_handle", HANDLE),
        Field(0x28, 8, "stor_origin", ABSOLUTE, "contiguous"),
        Field(0x36, 2, "num", NUMBER, "CPU address"),
        Field(0x38, 8, "state_origin", ABSOLUTE, "the SIE block"),
    ),
    "destroy_cpu": (_CPU,),
    "convert_to_secure": _GADDR,
    "convert_from_secure": _PADDR,
    "destroy_storage": _PADDR,
    "set_params": (
        _CONFIG,
        Field(0x20, 8, "sec_header_origin", HOME),
        Field(0x28, 4, "sec_header_len", NUMBER),
    ),
    "unpack": (
        *_GADDR,
        Field(0x28, 8, "tweak[0]", NUMBER, "component prefix"),
        Field(0x30, 8, "tweak[1]", NUMBER, "byte offset in the component"),
    ),
    "verify": (_CONFIG,),
    "cpu_reset": (_CPU,),
    "cpu_reset_initial": (_CPU,),
    "cpu_reset_clear": (_CPU,),
    "prepare_reset": (_CONFIG,),
    "cpu_set_state": (
        _CPU,
        Field(
            0x27, 1, "state", NUMBER, "1 operating, 2 stopped, 3 check-stop, 5 operating with a PSW to load"
        ),
    ),
    "unshare_all": (_CONFIG,),
    "pin": _PADDR,
    "unpin": _GADDR,
    "dump_init": (_CONFIG,),
    "dump_storage_state": (_CONFIG, _AREA, Field(0x28, 8, "gaddr", GUEST, "on 1 MiB")),
    "dump_cpu": (_CPU, _AREA),
    "dump_complete": (_CONFIG, _AREA),
    "share": _SHARED,
    "unshare": _SHARED,
    "attest": (
        Field(0x18, 8, "arcb_addr", INSIDE, "the request"),
        Field(0x20, 8, "cont_token", NUMBER),
        Field(0x2E, 2, "user_data_len", NUMBER, "at most 256"),
        Field(0x30, 256, "user_data", BYTES),
        Field(0x13C, 4, "meas_len", NUMBER),
        Field(0x140, 8, "meas_addr", INSIDE),
        Field(0x148, 16, "config_uid", BYTES, "", True),
        Field(0x15C, 4, "add_data_len", NUMBER),
        Field(0x160, 8, "add_data_addr", INSIDE),
    ),
    "add_secret": (Field(0x20, 8, "addr", INSIDE, "the request"),),
    "list_secrets": (
        Field(0x1E, 2, "start_idx", NUMBER),
        Field(0x20, 8, "list_addr", INSIDE, "one page"),
    ),
    "lock_secrets": (),
    "retrieve_secret": (
        Field(0x18, 2, "secret_idx", NUMBER),
        Field(0x1C, 4, "buf_size", NUMBER),
        Field(0x20, 8, "buf_addr", INSIDE),
    ),
}
