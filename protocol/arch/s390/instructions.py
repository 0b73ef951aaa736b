"""How an instruction of a guest shows to its host: intercept codes and the normalised text.

Follows section 5.4 of the fact sheet. For a secure guest the text is always the same (R1 = 0, R3 = 2, code or
order in register 5) and only the registers that the instruction uses are shown. The text of SIGP and SCLP
follows the same rule (inferred; the sheet spells it out for diagnose only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.arch.s390.guest import Diag, Sclp, Sigp

VALIDITY = 0x20
KICKED = 0x00
INSTRUCTION = 0x04
PROGRAM = 0x08  # an endless loop of specification exceptions
WAIT = 0x1C
MACHINE_CHECK_ENABLED = 0x60
INTERRUPT_ENABLED = 0x64
SECURE_INSTRUCTION = 0x68
NOTIFICATION = 0x6C
PREFIX = 0x70

NO_GPRS = (0,) * 16
LOWCORE = 0x2000

IPA_DIAG = 0x8302
IPA_SIGP = 0xAE02
IPA_SPX = 0xB210
IPA_SCLP = 0xB220
IPA_UVC = 0xB9A4
BASE_5 = 0x5000_0000

NOTICED_DIAGS = frozenset({0x44, 0x9C, 0x308})
PAIRED_DIAGS = frozenset({0x288, 0x308})
REFUSED_IPL = frozenset({4, 7, 8, 9, 10})  # subcodes of diag 308 that a secure guest may not use
RESETTING_IPL = frozenset({0, 1})
ENABLED = {
    0: (INTERRUPT_ENABLED, 2),
    6: (INTERRUPT_ENABLED, 3),
    14: (MACHINE_CHECK_ENABLED, 1),
}  # control register -> how its change shows, and which injection (iictl) it then allows
OF_A_WAIT = (2, 3)  # injections that an enabled wait allows


@dataclass(frozen=True, slots=True)
class Intercept:
    """What the host is told."""

    code: int
    ipa: int = 0
    ipb: int = 0
    gprs: tuple[int, ...] = NO_GPRS

    @property
    def reason(self) -> str:
        return REASONS.get(self.code) or f"icpt_{self.code:02x}"


REASONS = {
    VALIDITY: "validity",
    KICKED: "kick",
    INSTRUCTION: "instruction",
    WAIT: "wait",
    SECURE_INSTRUCTION: "icpt_68",
    NOTIFICATION: "icpt_6c",
    PREFIX: "icpt_70",
}


def prefixed(prefix: int, address: int) -> int:
    """Absolute address of a real one."""
    if prefix:
        if address < LOWCORE:
            return prefix + address
        if prefix <= address < prefix + LOWCORE:
            return address - prefix
    return address


def _shown(**registers: int) -> tuple[int, ...]:
    gprs = [0] * 16
    for name, value in registers.items():
        gprs[int(name[1:])] = value
    return tuple(gprs)


def diag(step: Diag, gprs: Sequence[int]) -> Intercept:
    """A diagnose of a secure guest: notification or secure instruction."""
    code = NOTIFICATION if step.code in NOTICED_DIAGS else SECURE_INSTRUCTION
    return Intercept(code, IPA_DIAG, BASE_5, _diag_gprs(step, gprs))


def _diag_gprs(step: Diag, gprs: Sequence[int]) -> tuple[int, ...]:
    if step.code == 0x44:
        return _shown(r5=step.code)
    if step.code == 0x500:
        return _shown(r1=gprs[1], r2=gprs[2], r3=gprs[3], r4=gprs[4], r5=step.code)
    if step.code == 0x9C:
        return _shown(r0=gprs[step.r1], r5=step.code)
    odd = gprs[step.r1 + 1] if step.code in PAIRED_DIAGS else 0
    return _shown(r0=gprs[step.r1], r1=odd, r2=gprs[step.r3], r5=step.code)


def sigp(step: Sigp) -> Intercept:
    """The parameter is in the odd half of the pair that R1 names."""
    gprs = _shown(r1=step.parameter, r2=step.address, r5=step.order)
    return Intercept(NOTIFICATION, IPA_SIGP, BASE_5, gprs)


def spx() -> Intercept:
    return Intercept(NOTIFICATION, IPA_SPX)


def sclp(step: Sclp) -> Intercept:
    """R1 names the command word, R2 the block's address, which stays hidden (guess):

    its data are in the SIDA.
    """
    return Intercept(NOTIFICATION, IPA_SCLP, 0x0002_0000, _shown(r0=step.command))


def unshare() -> Intercept:
    return Intercept(NOTIFICATION, IPA_UVC)


# -- a guest that is not secure: the text as it stands in its storage ----------------------------------------


def plain_diag(step: Diag, gprs: Sequence[int]) -> Intercept:
    ipb = (step.code & 0xFFF) << 16
    return Intercept(INSTRUCTION, 0x8300 | step.r1 << 4 | step.r3, ipb, tuple(gprs))


def plain_sigp(step: Sigp, gprs: Sequence[int]) -> Intercept:
    """Coded as SIGP 0,2 with the order as displacement; the step's operands are in registers 1 and 2."""
    shown = list(gprs)
    shown[1], shown[2] = step.parameter, step.address
    return Intercept(INSTRUCTION, IPA_SIGP, (step.order & 0xFFF) << 16, tuple(shown))


def plain_sclp(step: Sclp, gprs: Sequence[int]) -> Intercept:
    shown = list(gprs)
    shown[0], shown[2] = step.command, step.gpa
    return Intercept(INSTRUCTION, IPA_SCLP, 0x0002_0000, tuple(shown))


def plain(ipa: int, gprs: Sequence[int]) -> Intercept:
    return Intercept(INSTRUCTION, ipa, 0, tuple(gprs))
