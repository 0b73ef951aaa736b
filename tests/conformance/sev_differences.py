"""Where a guest host of this architecture can tell: the whole list, each with its reason.

A test that meets one of them names it. Everything else is the same at every depth.
"""

from __future__ import annotations

DIFFERENCES = {
    "cpuid": (
        "CPUID 0x8000001F EAX bit 29 and `nested_msr`: RMPUPDATE and PSMASH cannot be intercepted "
        "usefully, so a guest host is told to use the trapping MSRs"
    ),
    "kept below": (
        "DOWNLOAD_FIRMWARE, SNP_DOWNLOAD_FIRMWARE_EX, SNP_COMMIT, SNP_VLEK_LOAD, ACTIVATE_EX, "
        "SNP_ACTIVATE_EX and RING_BUFFER are UNSUPPORTED behind their checks: they concern the whole "
        "machine, or CPUs that are not there below"
    ),
    "config": (
        "SNP_CONFIG is kept per host, but a report is signed by the real chip and shows its TCB and its masks"
    ),
    "chain": (
        "SEND_START is UNSUPPORTED where the policy demands a chain up to the vendor's root: the "
        "level below would have to receive the guest itself, and has no such chain"
    ),
    "identity": (
        "the legacy platform's PEK, PDH and owner are the guest host's own; nobody signed for its chip"
    ),
    "scattered": (
        "in the profile `scattered` a 2 MiB entry of a guest's shows as 512 small ones, and what "
        "works on a large page is not offered: no 2 MiB page is below"
    ),
    "large swaps": (
        "pages of 2 MiB are swapped where the levels below have them in one piece: not in `scattered`, and "
        "not between places that are not on 2 MiB"
    ),
    "cloud": (
        "profile `azure`: INIT and INIT_EX are UNSUPPORTED, as legacy guests are not nested there; a #PF of "
        "a store to an assigned page has address 0, as the CPU gives L0 no linear address"
    ),
    "ciphertext": (
        "what is encrypted with a guest's key depends on that random key and on where the page lies in the "
        "machine; so does what comes of it where somebody takes it for something else: a nested table in "
        "such a page, a VMSA or data that are encrypted a second time"
    ),
    "te": (
        "`audit`: pages that are the firmware's in the guest host's RMP alone are tracked, and are "
        "not the TE's"
    ),
}
