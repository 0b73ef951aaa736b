"""Nested on the left, hosted on the right, on the same axes; then the difference, and who does less."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as m

from actors.observe import metrics as f
from actors.observe.metrics import Family, Kind
from dashboards.parts import BAD, BYTES, COUNT, GOOD, NEUTRAL, board, figure, lines, now, query

LEFT, RIGHT = "nested", "hosted"
THERE = f.BY_LEDGER["entries"]  # has a series on every path from its beginning on
MEASURES: tuple[tuple[str, Family, str, str], ...] = (
    ("Exits", f.BY_LEDGER["exits"], COUNT, "Arrivals at L0: the price of having a hypervisor below."),
    ("Calls at the TE", f.BY_LEDGER["te_issued"], COUNT, "Calls that reached the real trusted entity."),
    ("Addresses translated", f.BY_LEDGER["translations"], COUNT, "Addresses translated for a guest host."),
    ("Bytes copied", f.BY_LEDGER["copied_bytes"], BYTES, "Bytes of blocks and buffers that were not passed."),
    (
        "Faults injected",
        f.BY_LEDGER["injections"],
        COUNT,
        "Exceptions injected into a guest host; on hosted the interrupts that bring it L0's answers.",
    ),
    (
        "Model bytes of records",
        f.MODEL_BYTES,
        BYTES,
        "Records that live times the model size of one, a guess.",
    ),
)


def versus() -> m.Dashboard:
    """The dashboard."""
    return board(
        "nestbed-versus",
        "nestbed: nested against hosted",
        "The two ways to run a secure guest under a guest host, one scenario and one seed, side by side. The "
        "paths run one after the other, so their curves stand at different times: compare heights.",
        [(7, _row(*measure)) for measure in MEASURES],
        one_arch=True,
        paths=False,
    )


def _row(title: str, family: Family, unit: str, text: str) -> list[tuple[int, timeseries.Panel | stat.Panel]]:
    what = "counted up" if family.kind is Kind.COUNTER else "at each time"
    peak = "the newest count" if family.kind is Kind.COUNTER else "the most of each kind at any time"
    good = f"{text} Good: the lower side, both axes being the same ({what})."
    return [
        (8, _side(LEFT, RIGHT, title, family, unit, good)),
        (8, _side(RIGHT, LEFT, title, family, unit, good)),
        (
            4,
            _difference(
                f"{title}: difference",
                f"{text} Nested less hosted, {peak} of each. Good for hosting: above 0.",
                unit,
                family,
            ),
        ),
        (
            4,
            _verdict(
                f"{title}: verdict",
                f"{text} Which of the two has less of it. There is no good here: it "
                "is what the scenario shows.",
                family,
            ),
        ),
    ]


def _side(own: str, other: str, title: str, family: Family, unit: str, text: str) -> timeseries.Panel:
    """One path; the other one is there unseen, so that both panels have the same axis."""
    panel = lines(
        f"{title}: {own}",
        text,
        unit,
        query(_drawn(family, own), letter="A"),
        query(_drawn(family, other), "axis", letter="B"),
    )
    unseen: list[tuple[str, object]] = [
        ("custom.lineWidth", 0),
        ("custom.fillOpacity", 0),
        ("custom.showPoints", common.VisibilityMode.NEVER),
        ("custom.hideFrom", {"legend": True, "tooltip": True, "viz": False}),
    ]
    return panel.override_by_query("B", [m.DynamicConfigValue(name, value) for name, value in unseen])


def _drawn(family: Family, path: str) -> str:
    """The curve of a path: 0 where it ran and nothing of it ever happened."""
    return f"{now(family, where=_of(path))} or 0 * {now(THERE, where=_of(path))}"


def _of(path: str) -> str:
    return f'arch=~"$arch",path="{path}"'


def _end(family: Family, path: str) -> str:
    """What a path came to: a count's newest value, the most of each kind that lived. 0 if there was none."""
    of = f"{family.sample}{{{_of(path)}}}"
    if family.kind is Kind.COUNTER:
        return f"(sum(last_over_time({of}[$__range])) or vector(0))"
    return f"(sum(max_over_time({of}[$__range])) or vector(0))"


def _both(expression: str) -> str:
    """Only where both paths ran: nothing is no 0."""
    there = [f"count(last_over_time({THERE.sample}{{{_of(path)}}}[$__range]))" for path in (LEFT, RIGHT)]
    return f"({expression}) and on () {there[0]} and on () {there[1]}"


def _difference(title: str, text: str, unit: str, family: Family) -> stat.Panel:
    apart = _both(f"{_end(family, LEFT)} - {_end(family, RIGHT)}")
    panel = figure(title, text, unit, query(apart, "nested less hosted", once=True))
    return panel.no_value("not both paths ran")


def _verdict(title: str, text: str, family: Family) -> stat.Panel:
    sign = _both(f"sgn({_end(family, LEFT)} - {_end(family, RIGHT)})")
    said = {
        "1": m.ValueMappingResult(text="hosted has less", color=GOOD, index=0),
        "0": m.ValueMappingResult(text="equal", color=NEUTRAL, index=1),
        "-1": m.ValueMappingResult(text="nested has less", color=BAD, index=2),
    }
    panel = figure(title, text, COUNT, query(sign, "verdict", once=True)).no_value("not both paths ran")
    panel.text_mode(common.BigValueTextMode.VALUE).mappings([m.ValueMap(options=said)])
    return panel.color_scheme(d.FieldColor().mode(m.FieldColorModeId.THRESHOLDS))
