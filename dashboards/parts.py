"""What every dashboard is put together from: variables, queries, panels in rows, links.

A path has the colour that it has in the report, and those can be told apart by everybody. Every panel asks
the data source that the reader chose, and its description says what it shows and what good looks like.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from grafana_foundation_sdk.builders import common as draw
from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as m

from actors.compare.style import PATH_COLOURS
from actors.observe.metrics import BY_LEDGER, FRAME_ERRORS, RESTARTS, STARTED, Family

Panel: TypeAlias = timeseries.Panel | stat.Panel | statetimeline.Panel
Query: TypeAlias = prometheus.Dataquery

SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24  # columns of the grid
TAG = "nestbed"
COUNT, EACH_SECOND, BYTES, PLAIN = units.Short, units.CountsPerSecond, units.BytesIEC, units.Short
SELECTED = 'arch=~"$arch",path=~"$path"'
GOOD, BAD, NEUTRAL, WARN = "#0072b2", "#d55e00", "#6c7a89", "#e69f00"
TICK = "15s"  # of marks: how often Grafana asks for them


# -- queries ---------------------------------------------------------------------------------------------


def total(family: Family, by: str = "path", where: str = SELECTED) -> str:
    """The newest value in the time shown, added up: exact, also of a run that is over."""
    return f"sum by ({by}) (last_over_time({family.sample}{{{where}}}[$__range]))"


def now(family: Family, by: str = "path", where: str = SELECTED) -> str:
    """The value at each time, added up."""
    return f"sum by ({by}) ({family.sample}{{{where}}})"


def rate(family: Family, by: str = "path", where: str = SELECTED) -> str:
    """How fast a counter grows."""
    return f"sum by ({by}) (rate({family.sample}{{{where}}}[$__rate_interval]))"


def query(expression: str, legend: str = "{{path}}", *, once: bool = False, letter: str = "A") -> Query:
    """A target: over the time shown, or `once` at its end."""
    made = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(letter).datasource(SOURCE)
    return made.instant() if once else made.range()


# -- panels ----------------------------------------------------------------------------------------------


def lines(title: str, text: str, unit: str, *queries: Query) -> timeseries.Panel:
    """Lines over time, with what they are called and where they ended below."""
    panel = timeseries.Panel().title(title).description(text).unit(unit).datasource(SOURCE).min(0)
    legend = draw.VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
    panel.legend(legend.display_mode(common.LegendDisplayMode.TABLE).calcs(["lastNotNull", "max"]))
    panel.tooltip(draw.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    panel.line_interpolation(common.LineInterpolation.STEP_AFTER).line_width(2).fill_opacity(8)
    panel.show_points(common.VisibilityMode.AUTO)
    _coloured(panel)
    for each in queries:
        panel.with_target(each)
    return panel


def figure(title: str, text: str, unit: str, *queries: Query) -> stat.Panel:
    """One number for each series."""
    panel = stat.Panel().title(title).description(text).unit(unit).datasource(SOURCE).decimals(0)
    panel.reduce_options(draw.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
    panel.text_mode(common.BigValueTextMode.VALUE_AND_NAME).no_value("nothing counted")
    panel.color_scheme(d.FieldColor().mode(m.FieldColorModeId.FIXED).fixed_color(NEUTRAL))
    _coloured(panel)
    for each in queries:
        panel.with_target(each)
    return panel


def states(title: str, text: str, *queries: Query) -> statetimeline.Panel:
    """One line for each series: how many there were, and that there were none."""
    panel = statetimeline.Panel().title(title).description(text).unit(COUNT).decimals(0).datasource(SOURCE)
    panel.show_value(common.VisibilityMode.AUTO).merge_values(True).row_height(0.8).line_width(0)
    panel.legend(draw.VizLegendOptions().show_legend(False).placement(common.LegendPlacement.BOTTOM))
    panel.color_scheme(d.FieldColor().mode(m.FieldColorModeId.THRESHOLDS))
    some = [m.Threshold(value=None, color=NEUTRAL), m.Threshold(value=1, color=GOOD)]
    panel.thresholds(d.ThresholdsConfig().mode(m.ThresholdsMode.ABSOLUTE).steps(some))
    panel.mappings([m.ValueMap(options={"0": m.ValueMappingResult(text="none")})])
    for each in queries:
        panel.with_target(each)
    return panel


def _coloured(panel: timeseries.Panel | stat.Panel) -> None:
    for path, colour in PATH_COLOURS.items():
        fixed = m.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})
        panel.override_by_name(path, [fixed])


def stacked(panel: timeseries.Panel) -> timeseries.Panel:
    """Parts of a whole, one above the other."""
    return panel.stacking(draw.StackingConfig().mode(common.StackingMode.NORMAL)).fill_opacity(40)


# -- dashboards ------------------------------------------------------------------------------------------


def choices(
    *, one_arch: bool, paths: bool, machines: bool
) -> Iterable[d.QueryVariable | d.DatasourceVariable]:
    """The variables: the data source, the architecture, and the paths where a dashboard does not fix them."""
    yield d.DatasourceVariable("datasource").type("prometheus").label("Data source")
    if not machines:
        return
    yield _choice("arch", "Architecture", several=not one_arch)
    if paths:
        yield _choice("path", "Path", several=True)


def _choice(label: str, title: str, *, several: bool) -> d.QueryVariable:
    made = d.QueryVariable(label).label(title).datasource(SOURCE)
    made.query(f"label_values(nestbed_entries_total, {label})").sort(m.VariableSort.ALPHABETICAL_ASC)
    made.refresh(m.VariableRefresh.ON_TIME_RANGE_CHANGED)
    if several:
        made.multi(True).include_all(True).all_value(".*")
        made.current(m.VariableOption(selected=True, text="All", value="$__all"))
    return made


def board(
    uid: str,
    title: str,
    text: str,
    rows: Sequence[tuple[int, Sequence[tuple[int, Panel]]]],
    *,
    one_arch: bool = False,
    paths: bool = True,
    machines: bool = True,
) -> m.Dashboard:
    """A dashboard of rows: (height, panels with their widths), one row below the other.

    Without `machines` it is about the program alone: nothing of an emulated machine is chosen or marked.
    """
    made = d.Dashboard(title).uid(uid).description(text).tags([TAG]).readonly().timezone("utc")
    made.time("now-15m", "now").refresh("10s").tooltip(m.DashboardCursorSync.CROSSHAIR)
    for variable in choices(one_arch=one_arch, paths=paths, machines=machines):
        made.with_variable(variable)
    for mark in _marks() if machines else _faults_of_the_program():
        made.annotation(mark.datasource(SOURCE).enable(True))
    link = d.DashboardLink("Other dashboards of nestbed").type(m.DashboardLinkType.DASHBOARDS)
    made.link(link.tags([TAG]).as_dropdown(True).include_vars(True).keep_time(True))
    number = y = 0
    for height, panels in rows:
        x = 0
        for width, panel in panels:
            number += 1
            made.with_panel(panel.id(number).grid_pos(m.GridPos(h=height, w=width, x=x, y=y)))
            x += width
        assert x <= WIDTH, f"{title}: a row is {x} columns wide"
        y += height
    return made.build()


def _marks() -> Iterable[d.AnnotationQuery]:
    """What changed when on a machine: a scenario began, a guest host went away, a new kind of fault."""
    # The value is the time itself; Grafana takes milliseconds.
    began = _mark("Scenario began", NEUTRAL, "began", f"max({STARTED.sample}) * 1000")
    yield began.use_value_for_time(True)
    items = f'{BY_LEDGER["teardown"].sample}{{arch=~"$arch"}}'
    gone = f"sum by (path, cause) ({_moved(items)})"
    yield _mark("Guest host gone", BAD, "{{path}}: {{cause}}", gone)
    faults = f'{BY_LEDGER["injections"].sample}{{arch=~"$arch",kind!="vsock"}}'  # that one is an interrupt
    first = f"sum by (path, kind) ({faults} > 0 unless {faults} offset {TICK} > 0)"
    yield _mark("First fault of its kind", WARN, "{{path}}: {{kind}} into a guest host", first)


def _faults_of_the_program() -> Iterable[d.AnnotationQuery]:
    """What went wrong with the program itself, and was mended."""
    again = f"sum by (supervisor) ({_moved(RESTARTS.sample)})"
    yield _mark("Started again", BAD, "{{supervisor}} started a child again", again)
    broke = f"sum by (peer, reason) ({_moved(FRAME_ERRORS.sample)})"
    yield _mark("Peer broke the protocol", WARN, "{{peer}}: {{reason}}", broke)


def _moved(counter: str) -> str:
    """Where a counter grew. A series is there from its first item on: to appear is a change, too."""
    return f"changes({counter}[{TICK}]) > 0 or ({counter} > 0 unless {counter} offset {TICK})"


def _mark(name: str, colour: str, text: str, expression: str) -> d.AnnotationQuery:
    return d.AnnotationQuery().name(name).icon_color(colour).text_format(text).expr(expression).step(TICK)
