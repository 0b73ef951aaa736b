"""(k) "More host tracking": is it more, and where?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from actors.answers import runs as r
from actors.answers.page import Grid, Page
from actors.compare.outcome import Json
from actors.scenario import load
from protocol.tracking import PLANES

SCENARIO = "default"
PATHS = ("nested", "hosted")
HOLDERS = (("l0",), ("l1",), ("l0", "l1"))
SUMS = ("L0", "L1", "L0 and L1")


def tracking() -> Page:
    """The page."""
    return Page(
        "k",
        "Hosting needs more host tracking: is that so, and where is it kept?",
        ("**It depends on who counts, and on the system.** " + finding(), *_sentences()),
        (_bytes(), _planes(), _changes()),
        (
            "Sizes are of a model: one record of each kind on a 64-bit machine, by the fact sheets and "
            "estimates; how many there are, and how often they change, is counted.",
            "A console (64 KiB) and open channels are counted where there are some; the guests of this "
            "scenario have none. The processes of VMMs are not counted on any path: they are the same.",
            "Pages are kept one by one, as they come. As runs, after all have been fetched at once, a "
            "level would need a record for each run on every path alike.",
        ),
        (SCENARIO,),
    )


def finding() -> str:
    """What came out, in one sentence: README says it, too."""
    more = _where(lambda arch: _held(arch, "hosted", ("l0",)) > _held(arch, "nested", ("l0",)))
    kinds = _where(lambda arch: _kinds(arch, "hosted") > _kinds(arch, "nested"))
    less = _where(lambda arch: _held(arch, "hosted", ("l0", "l1")) < _held(arch, "nested", ("l0", "l1")))
    return (
        f"At L0 alone, hosting keeps more kinds of control records on {kinds}, and more bytes on {more}; "
        f"L0 and L1 together keep fewer bytes with hosting on {less}."
    )


def _sentences() -> Iterable[str]:
    rates = _where(lambda arch: _apart(_changed(arch)) > _apart(_bytes_of(arch)))
    yield (
        "What was expected, from a model of one guest of 1 GiB: (1) at L0 hosting has more kinds of records, "
        "and more bytes once VMM and buffers count; (2) in the sum of L0 and L1 it has less; (3) how often "
        "records change separates the ways more than bytes do. What the emulator counted: (1) and (2) as "
        f"said above; (3) on {rates}."
    )
    yield (
        "Why they part: where the level below has a record and a block for each CPU of a nested guest (s390, "
        "SNP), hosting frees L0 of more than it brings. The TDX module and the POWER ultravisor keep those "
        "themselves, so what the hosting service keeps (requests, leases, exit records, the journal) "
        "comes on top."
    )


def _where(holds: Callable[[str], bool]) -> str:
    found = [arch for arch in r.arches() if holds(arch)]
    if len(found) == len(r.arches()):
        return "every system"
    return ", ".join(found) if found else "none"


# -- numbers ---------------------------------------------------


def _result(arch: str, path: str) -> Json:
    return r.result(r.outcome(SCENARIO), arch, path)


def _held(arch: str, path: str, holders: Iterable[str], plane: str = "") -> int:
    """Model bytes at their most, of these holders."""
    tracked: Mapping[str, Mapping[str, Mapping[str, int]]] = _result(arch, path).get("tracking") or {}
    planes = (plane,) if plane else tuple(PLANES)
    return sum(
        (tracked.get(holder, {}).get(each) or {}).get("bytes", 0) for holder in holders for each in planes
    )


def _updates(arch: str, path: str) -> dict[tuple[str, str], int]:
    """Changes of records, by kind and holder."""
    found: dict[tuple[str, str], int] = {}
    for name, number in _result(arch, path)["counts"].items():
        family, _, labels = name.partition(".")
        if family == "tracking_updates" and labels:
            kind, _, holder = labels.split(".")
            found[kind, holder] = found.get((kind, holder), 0) + number
    return found


def _kinds(arch: str, path: str) -> int:
    return len(
        {kind for kind, holder in _updates(arch, path) if holder == "l0" and kind in PLANES["control"]}
    )


def _changed(arch: str) -> tuple[int, int]:
    nested, hosted = (sum(_updates(arch, path).values()) for path in PATHS)
    return nested, hosted


def _bytes_of(arch: str) -> tuple[int, int]:
    nested, hosted = (_held(arch, path, ("l0", "l1")) for path in PATHS)
    return nested, hosted


def _apart(pair: tuple[int, int]) -> float:
    """How many times the smaller one the larger is."""
    return max(pair) / min(pair)


def _guests() -> int:
    scenario = load(SCENARIO).scenario
    return scenario.l1.count * scenario.guest.per_l1


# -- tables ----------------------------------------------------


def _bytes() -> Grid:
    guests = _guests()
    rows = []
    for arch in r.arches():
        for path in PATHS:
            cells = [f"{_held(arch, path, holders) // guests:,}" for holders in HOLDERS]
            rows.append((f"{arch} {path}", *cells))
    return Grid(
        ("model bytes for each guest", *SUMS),
        rows,
        f"Records at their most, shared out over {guests} guests.",
    )


def _planes() -> Grid:
    rows = []
    for arch in r.arches():
        for path in PATHS:
            cells = [f"{_held(arch, path, ('l0', 'l1'), plane):,}" for plane in PLANES]
            rows.append((f"{arch} {path}", *cells, str(_kinds(arch, path))))
    return Grid(
        ("model bytes, L0 and L1", *PLANES, "kinds of control records at L0"),
        rows,
        "The same by what the records are about.",
    )


def _changes() -> Grid:
    rows = []
    for arch in r.arches():
        for path in PATHS:
            changes = _updates(arch, path)
            cells = [
                f"{sum(n for (_, holder), n in changes.items() if holder in holders):,}"
                for holders in HOLDERS
            ]
            rows.append((f"{arch} {path}", *cells))
        cells = [r.times(_apart(pair), 1) for pair in (_changed(arch), _bytes_of(arch))]
        rows.append((f"{arch}, apart by", "-", "-", f"{cells[0]} (bytes {cells[1]})"))
    return Grid(("changes of records", *SUMS), rows, "Every record that was made, changed or dropped.")
