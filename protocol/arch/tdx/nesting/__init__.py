"""KVM's emulation of the TDX module for a guest host: the level below's, whose calls are issued again.

frames     the guest host's memory
entities   its TDs and VCPUs
operands   addresses down, registers up
memory     calls that only name other addresses below
keys       KeyIDs, packages, caches
entry      VP.ENTER, associations, fields of VCPUs
shadow     shared EPTs
teardown   the guest host is gone

Theory of operation. The guest host's module has tables of its own (`platform`): its state, TDMRs, PAMT, key
owners, in the guest host's addresses and KeyIDs. What concerns them alone is answered from them, by the
very code of the machine; everything about a TD is issued below with other addresses, and the module below
makes all its checks. Here only that is looked at which the module below cannot know: `operands` says how.
Nobody has published such a host; treatments follow section 7 of the fact sheet, which is a proposal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from protocol.arch.tdx.cpu import Lp, Registers
from protocol.arch.tdx.front import Call, Front
from protocol.arch.tdx.guest import Program
from protocol.arch.tdx.nesting import entry, keys, memory, teardown
from protocol.arch.tdx.nesting.entities import TrackedTd, TrackedVcpu
from protocol.arch.tdx.nesting.frames import GIB_SHIFT, Frames, Hypervisor
from protocol.arch.tdx.nesting.operands import Operands
from protocol.arch.tdx.nesting.shadow import Shadows
from protocol.arch.tdx.platform import PAGE_SHIFT, Platform
from protocol.arch.tdx.profiles import GIB, Profile, Range, cmrs_of, seamrr_of
from protocol.arch.tdx.status import BUSY, CODE_MASK, RAX, Refused
from protocol.arch.tdx.tables import OpState, PageType
from protocol.calls import CallSpec
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.memory.store import OFFSET
from protocol.nesting.quarantine import Quarantine
from protocol.tracking import Book

TREATMENTS: Mapping[int, Callable[[Nested, Call], Step[int]]]


class Nested(Frames, Front):
    """The TDX module as the guest host L(level) meets it.

    `under` are the level's own LPs on which the guest host's run, in their order; `keepers`, one for each
    package below, are for the level's own work.
    """

    def __init__(
        self,
        below: Hypervisor,
        gibs: Sequence[int],
        size: int,
        lps: Sequence[Lp],
        under: Sequence[Lp],
        keepers: Sequence[Lp],
        calls: Mapping[int, CallSpec],
        profile: Profile,
        ledger: Ledger,
    ) -> None:
        super().__init__(below, gibs, size, seamrr_of(size), ledger)
        self.profile = profile
        self.lps = list(lps)
        self.keepers = list(keepers)
        self._under = list(under)
        for own, lp in zip(self.lps, self._under, strict=True):
            lp.above = own
        self.calls = profile.offered(calls)
        self.platform = Platform(profile, cmrs_of(size), self.seamrr, size >> PAGE_SHIFT, len(self.lps))
        self.tds: dict[int, TrackedTd] = {}
        self.vcpus: dict[int, TrackedVcpu] = {}
        self.shadows = Shadows(self)
        self.book = Book(ledger, f"l{below.level}")
        self.quarantine = Quarantine()
        self.lost: list[tuple[TrackedTd, list[int]]] = []  # TDs that would not end, the frames that they keep
        self.gone = False
        self.book.add("te_context")
        self.page_books: list[Book] = []
        self._apart: dict[int, Book] = {}  # GiB of the guest host -> book of the host above it that has it
        self.owed = 0  # cycles of cache write-back that a cycle for somebody else made needless

    # -- the level ---------------------------------------------------------------------------------

    def call(self, lp: Lp, r: Registers, park: bool = False) -> Step[Registers | Fault]:
        """The instruction SEAMCALL of the guest host: it leaves, and is emulated."""
        return self._left(lp, r, park)

    def enter(
        self, lp: Lp, r: Registers, program: Program, stay: bool = False, park: bool = False
    ) -> Step[Registers | Fault]:
        """SEAMCALL with leaf TDH.VP.ENTER."""
        return self._left(lp, r, park, program, stay)

    def _left(
        self, lp: Lp, r: Registers, park: bool, program: Program | None = None, stay: bool = False
    ) -> Step[Registers | Fault]:
        """A busy answer depends on timing, so it is counted as contention alone."""
        self.under(lp).origin = lp.origin or self.level
        out = yield from self.seamcall(lp, r, park, program, stay)
        if isinstance(out, Fault):
            self.injected(out)
        elif out[RAX] & CODE_MASK in BUSY:
            self.ledger.contention["busy"] += 1
            return out
        self.ledger.trap(self.level, "seamcall")
        self.ledger.reenter(self.below.level)
        return out

    def perform(self, spec: CallSpec, call: Call) -> Step[int]:
        treatment = TREATMENTS.get(spec.code, spec.handler)
        assert treatment is not None
        try:
            status: int = yield from treatment(self, call)
        except Refused as refused:
            self._count(spec, refused.status)
            raise
        self._count(spec, status)
        return status

    def _count(self, spec: CallSpec, status: int) -> None:
        if status & CODE_MASK not in BUSY:
            self.ledger.count(("te_calls", spec.name, spec.category, spec.treatment, str(self.level)))
            if spec.handle:
                self.ledger.count(("lookups", "vcpu_map" if spec.handle == "tdvpr" else "vm_map", "hit"))

    def under(self, lp: Lp) -> Lp:
        """The level's own LP on which `lp` of the guest host runs."""
        return self._under[lp.number]

    def stage(self, tdr: int, state: OpState) -> str:
        if tdr & OFFSET or tdr >> PAGE_SHIFT not in self.tds:
            return "the TDR of a TD that is initialised"
        wrong: str = self.below.memory.stage(self.frame_below(tdr >> PAGE_SHIFT) << PAGE_SHIFT, state)
        return wrong

    def pamt_written(self, area: Range) -> None:
        self.own_module_takes(area)

    def table_written(self, address: int, length: int) -> None:
        self.ledger.count(("tracking_updates", "table", "update", self.book.holder))
        self.shadows.written(address, length)

    # -- the books ---------------------------------------------------------------------------------

    def keep_apart(self, parts: Sequence[Sequence[int]]) -> None:
        """The guest host carries hosts with these of its GiBs: each has a book of its own here.

        How much there was at once, and how many keys one write-back served, would else depend on the order
        between those hosts.
        """
        self.page_books = [Book(self.ledger, self.book.holder) for _ in parts]
        self._apart = {gib: book for gibs, book in zip(parts, self.page_books, strict=True) for gib in gibs}

    @property
    def kept_apart(self) -> bool:
        return bool(self._apart)

    def book_of(self, frame: int) -> Book:
        """Where what is in a frame of the guest host stands."""
        return self._apart.get(frame >> GIB_SHIFT, self.book)

    def td_at(self, operands: Operands, register: int) -> TrackedTd | None:
        """The TD whose TDR a register names, if nothing is wrong with that."""
        if register in operands.wrong:
            return None
        return self.tds.get(operands.given[register] >> PAGE_SHIFT)

    def td_frame(self, frame: int) -> int:
        """The TDR of what lives in `frame`: a TD itself, or a VCPU."""
        platform = self.platform
        return platform.owners[frame] if platform.kind_of(frame) == PageType.TDVPR else frame

    def below_td(self, td: TrackedTd) -> int:
        return self.frame_below(td.frame) << PAGE_SHIFT

    def anywhere(self, address: int) -> int:
        """An address of the guest host's as it is below: its memory, or a place where there is none."""
        if address < self.size:
            return self.address_below(address)
        nowhere: int = (1 << self.below.memory.profile.hkid_shift) - GIB
        return nowhere | address & (GIB - 1)

    def gives(self, first: int, kind: PageType, tdr: int, count: int = 1) -> None:
        """Free pages are a TD's from now on. The book has no large pages: it counts frames."""
        run = slice(first, first + count)
        self.platform.kind[run] = kind
        self.platform.owner[run] = tdr
        self.donate(first, count)
        self.book_of(first).add("secure_page" if kind is PageType.REG else "donated_run", count)

    def takes_back(self, first: int, count: int) -> None:
        """Pages are free again."""
        run = slice(first, first + count)
        kind = self.platform.kind_of(first)
        if kind == PageType.TDVPR:
            vcpu = self.vcpus.pop(first)
            vcpu.td.vcpus.remove(vcpu)
            self.book_of(first).drop("vcpu_map")
        self.platform.kind[run] = PageType.NDA
        self.platform.owner[run] = 0
        self.returned(first, count)
        self.book_of(first).drop("secure_page" if kind == PageType.REG else "donated_run", count)

    # -- the guest host starts anew, or ends -------------------------------------------------------

    @property
    def lost_frames(self) -> list[int]:
        """Frames of the guest host's that the module below keeps."""
        return [frame for _, frames in self.lost for frame in frames]

    def reset(self, cause: str = "l1_reboot") -> Step[None]:
        """Its machine restarts."""
        yield from teardown.everything(self, cause)
        self.power_on(self.lost_frames)
        for lp in self.lps:
            lp.reset()

    def death(self, cause: str = "l1_crash") -> Step[None]:
        """It is gone without a word. Said again, what was lost then is asked for once more."""
        yield from teardown.everything(self, cause)
        self.leave(self.lost_frames)
        if not self.gone:
            self.gone = True
            self.book.drop("te_context")
            for lp in self._under:
                lp.above = None


TREATMENTS = {code: memory.reissue(row) for code, row in memory.ROWS.items()} | {
    0: entry.enter,
    3: memory.add_table,
    6: memory.augment,
    8: keys.key_config,
    9: keys.create,
    11: memory.read_td,
    18: entry.flush,
    19: keys.flush_done,
    20: keys.free_key,
    22: entry.initialize,
    24: memory.metadata,
    26: entry.read,
    28: memory.reclaim,
    40: keys.write_back,
    41: memory.flush_page,
    43: entry.write,
    48: memory.bind,
}
