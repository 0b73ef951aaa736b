"""Numbers of hypercalls, the registers that they take, and how a nested guest is described.

Sections 4.3, 4.4, 8.1.
"""

from __future__ import annotations

SVM_PAGE_IN, SVM_PAGE_OUT, SVM_INIT_START = 0xEF00, 0xEF04, 0xEF08
SVM_INIT_DONE, SVM_TPM_COMM, SVM_INIT_ABORT = 0xEF0C, 0xEF10, 0xEF14
RANDOM, CEDE, RTAS, CI_LOAD, CI_STORE = 0x300, 0xE0, 0xF000, 0x3C, 0x40
SET_PARTITION_TABLE, ENTER_NESTED, TLB_INVALIDATE, COPY_TOFROM_GUEST = 0xF800, 0xF804, 0xF808, 0xF80C

NAMES = {
    SVM_PAGE_IN: "H_SVM_PAGE_IN",
    SVM_PAGE_OUT: "H_SVM_PAGE_OUT",
    SVM_INIT_START: "H_SVM_INIT_START",
    SVM_INIT_DONE: "H_SVM_INIT_DONE",
    SVM_TPM_COMM: "H_SVM_TPM_COMM",
    SVM_INIT_ABORT: "H_SVM_INIT_ABORT",
    RANDOM: "H_RANDOM",
    CEDE: "H_CEDE",
    RTAS: "H_RTAS",
    CI_LOAD: "H_LOGICAL_CI_LOAD",
    CI_STORE: "H_LOGICAL_CI_STORE",
    SET_PARTITION_TABLE: "H_SET_PARTITION_TABLE",
    ENTER_NESTED: "H_ENTER_NESTED",
    TLB_INVALIDATE: "H_TLB_INVALIDATE",
    COPY_TOFROM_GUEST: "H_COPY_TOFROM_GUEST",
}

NONSHARED, SHARED = 0, 1  # flags of H_SVM_PAGE_IN
TPM_EXECUTE, TPM_CLOSE = 1, 2

# Registers that the ultravisor lets through; a call that is not here has all that the convention allows.
_ALL = (4, 5, 6, 7, 8, 9, 10, 11)
_INPUTS = {CEDE: (), RTAS: (4,), CI_LOAD: (4, 5), CI_STORE: (4, 5, 6)}

START_CPU, OS_TERM = 0x2006, 0x201F  # tokens of RTAS calls, as QEMU numbers them
TOKEN_BYTES = 4  # what an argument block of RTAS begins with
RTAS_HEAD = 12  # token, number of arguments, number of results: 4 bytes each
RTAS_BLOCK = RTAS_HEAD + 16 * 4


def inputs(number: int) -> tuple[int, ...]:
    return _INPUTS.get(number, _ALL)


def name_of(number: int) -> str:
    return NAMES.get(number, hex(number))
