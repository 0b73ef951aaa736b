// One dashboard, drawn by Grafana's own panels from answers of a Prometheus. `window.BOARD` has the dashboard as it is
// committed and for each panel what its queries answered; who opens this page waits for `document.title` to be "drawn".

import React from 'react';
import { createRoot } from 'react-dom/client';
import { FieldType, ThemeContext, createTheme, dateTime, getDisplayProcessor, getFieldDisplayName, reduceField } from '@grafana/data';
import { BigValue, BigValueColorMode, BigValueGraphMode, BigValueTextMode, LegendDisplayMode, PanelChrome, TimeSeries, TooltipDisplayMode, VizLegend, VizLayout } from '@grafana/ui';

const theme = createTheme({ colors: { mode: window.BOARD.mode } });
const COLUMNS = 24, ROW = 34, GAP = 8;

function overridden(panel, target, name) {
  // The overrides that a dashboard of nestbed has: by name of a series and by letter of a query.
  const config = structuredClone(panel.fieldConfig.defaults);
  config.custom = { ...(config.custom || {}) };
  for (const { matcher, properties } of panel.fieldConfig.overrides) {
    const hit = matcher.id === 'byName' ? matcher.options === name : matcher.id === 'byFrameRefID' && matcher.options === target.refId;
    if (!hit) continue;
    for (const { id, value } of properties) {
      if (id.startsWith('custom.')) config.custom[id.slice(7)] = value;
      else config[id] = value;
    }
  }
  return config;
}

function frames(panel) {
  const made = [];
  panel.targets.forEach((target, number) => {
    for (const series of window.BOARD.answers[panel.id][number]) {
      const index = made.length;
      const field = {
        name: series.name, type: FieldType.number, values: series.values.map(([, value]) => value),
        config: { displayName: series.name, ...overridden(panel, target, series.name) }, labels: {},
        state: { seriesIndex: index, displayName: series.name, origin: { frameIndex: index, fieldIndex: 1 } },
      };
      const time = { name: 'time', type: FieldType.time, values: series.values.map(([at]) => at * 1000), config: {}, state: {} };
      for (const each of [field, time]) each.display = getDisplayProcessor({ field: each, theme, timeZone: 'utc' });
      made.push({ refId: target.refId, length: time.values.length, fields: [time, field] });
    }
  });
  return made;
}

function legend(panel, series) {
  return series
    .filter((frame) => !(frame.fields[1].config.custom.hideFrom || {}).legend)
    .map((frame) => {
      const field = frame.fields[1];
      const values = (panel.options.legend.calcs || []).map((calc) => {
        const number = reduceField({ field, reducers: [calc] })[calc];
        const shown = field.display(number);
        return { ...shown, title: calc === 'lastNotNull' ? 'Last' : 'Max' };
      });
      const color = field.display(0).color || theme.visualization.getColorByName(field.config.color?.fixedColor);
      return { label: field.state.displayName, color: field.config.color?.fixedColor || color, yAxis: 1, getDisplayValues: () => values, disabled: false };
    });
}

// Marks stand in Grafana's server, too: lines from top to bottom, as it draws them.
function marked(plot) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.setLineDash([5, 4]);
  ctx.lineWidth = 1.5;
  for (const { color, times } of window.BOARD.marks) {
    ctx.strokeStyle = ctx.fillStyle = color;
    for (const time of times) {
      const x = plot.valToPos(time * 1000, 'x', true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      ctx.beginPath(); ctx.moveTo(x - 5, bbox.top + bbox.height + 7); ctx.lineTo(x + 5, bbox.top + bbox.height + 7); ctx.lineTo(x, bbox.top + bbox.height); ctx.fill();
    }
  }
  ctx.restore();
}

function Lines({ panel, width, height }) {
  const series = frames(panel);
  const palette = theme.visualization.palette;
  series.forEach((frame, index) => {
    const config = frame.fields[1].config;
    if (!config.color) config.color = { mode: 'fixed', fixedColor: theme.visualization.getColorByName(palette[index % palette.length]) };
    config.custom.drawStyle = config.custom.drawStyle || 'line';
    frame.fields[1].display = getDisplayProcessor({ field: frame.fields[1], theme, timeZone: 'utc' });
  });
  const range = { from: dateTime(window.BOARD.from * 1000), to: dateTime(window.BOARD.to * 1000) };
  range.raw = { from: range.from, to: range.to };
  const items = legend(panel, series);
  const low = Math.min(items.length * 22 + 28, height * 0.35); // as much as Grafana gives a legend below
  if (!series.length) return <div style={{ padding: 16 }}>No data</div>;
  return (
    <div style={{ width, height }}>
      <TimeSeries frames={series} structureRev={1} timeRange={range} timeZone="utc" width={width} height={height - low}
        legend={{ showLegend: false, displayMode: LegendDisplayMode.Hidden, placement: 'bottom', calcs: [] }}
        options={{ tooltip: { mode: TooltipDisplayMode.None } }}>
        {(config) => { config.addHook('draw', marked); return null; }}
      </TimeSeries>
      <div style={{ height: low, overflow: 'hidden' }}>
        <VizLegend items={items} displayMode={LegendDisplayMode.Table} placement="bottom" thresholdItems={[]} mappingItems={[]} />
      </div>
    </div>
  );
}

function Figures({ panel, width, height }) {
  const series = frames(panel);
  const mappings = panel.fieldConfig.defaults.mappings || [];
  if (!series.length) return <div style={{ padding: 16 }}>{panel.fieldConfig.defaults.noValue}</div>;
  const each = (width - GAP * (series.length - 1)) / series.length;
  return (
    <div style={{ display: 'flex', gap: GAP, width, height }}>
      {series.map((frame) => {
        const field = frame.fields[1];
        const value = field.display(field.values[field.values.length - 1]);
        return (
          <BigValue key={field.name} width={each} height={height} theme={theme} colorMode={BigValueColorMode.Value}
            graphMode={BigValueGraphMode.None} textMode={mappings.length ? BigValueTextMode.Value : BigValueTextMode.ValueAndName}
            value={{ ...value, title: field.name, color: value.color || field.config.color?.fixedColor }} />
        );
      })}
    </div>
  );
}

// Grafana keeps its state timeline in a plug-in of its server, so this one is drawn here, after its looks.
function States({ panel, width, height }) {
  const series = frames(panel);
  const { from, to } = window.BOARD;
  const left = 150, row = Math.min(44, (height - 24) / Math.max(series.length, 1)), scale = (width - left - 12) / (to - from);
  const steps = panel.fieldConfig.defaults.thresholds?.steps || [];
  return (
    <svg width={width} height={height} fontFamily={theme.typography.fontFamily} fontSize={12}>
      {series.map((frame, number) => {
        const [time, field] = frame.fields, runs = [];
        field.values.forEach((value, place) => {
          const at = time.values[place] / 1000, last = runs[runs.length - 1];
          if (last && last.value === value) last.to = at; else { if (last) last.to = at; runs.push({ value, from: at, to: at }); }
        });
        return (
          <g key={field.name} transform={`translate(0, ${number * row})`}>
            <text x={left - 10} y={row / 2 + 4} textAnchor="end" fill={theme.colors.text.primary}>{field.name}</text>
            {runs.map((run) => {
              const shown = field.display(run.value);
              const step = [...steps].reverse().find(({ value }) => value === null || run.value >= value);
              const x = left + (run.from - from) * scale, wide = Math.max(1, (run.to - run.from) * scale);
              return (
                <g key={run.from}>
                  <rect x={x} y={3} width={wide} height={row - 6} fill={theme.visualization.getColorByName(step?.color || 'gray')} opacity={0.8} />
                  {wide > 34 && <text x={x + 6} y={row / 2 + 4} fill="#fff">{shown.text}</text>}
                </g>
              );
            })}
          </g>
        );
      })}
      {window.BOARD.marks.flatMap(({ name, color, times }) => times.map((time) => (
        <line key={name + time} x1={left + (time - from) * scale} x2={left + (time - from) * scale} y1={0} y2={height - 8}
          stroke={color} strokeWidth={1.5} strokeDasharray="5 4" />
      )))}
    </svg>
  );
}

const KINDS = { timeseries: Lines, stat: Figures, 'state-timeline': States };

function Board({ board }) {
  const unit = (document.documentElement.clientWidth - GAP) / COLUMNS;
  const height = Math.max(...board.panels.map(({ gridPos: { y, h } }) => y + h)) * ROW;
  return (
    <div style={{ position: 'relative', height: height + 56, fontFamily: theme.typography.fontFamily, color: theme.colors.text.primary, background: theme.colors.background.canvas }}>
      <div style={{ padding: '14px 16px', fontSize: 18 }}>
        {board.title}
        {window.BOARD.marks.map(({ name, color, times }) => (
          <span key={name} style={{ marginLeft: 24, fontSize: 12, color: theme.colors.text.secondary }}>
            <span style={{ display: 'inline-block', width: 9, height: 9, marginRight: 6, background: color }} />{name} ({times.length})
          </span>
        ))}
      </div>
      {board.panels.map((panel) => {
        const { x, y, w, h } = panel.gridPos;
        const Kind = KINDS[panel.type];
        return (
          <div key={panel.id} style={{ position: 'absolute', left: GAP + x * unit, top: 48 + y * ROW }}>
            <PanelChrome title={panel.title} width={w * unit - GAP} height={h * ROW - GAP}>
              {(width, inner) => Kind ? <Kind panel={panel} width={width} height={inner} /> : <div>no drawing of {panel.type}</div>}
            </PanelChrome>
          </div>
        );
      })}
    </div>
  );
}

const style = document.createElement('style');
style.textContent = `*{box-sizing:border-box} body{margin:0;font-size:14px;background:${theme.colors.background.canvas}} button{background:none;border:0;color:inherit;font:inherit} table{border-collapse:collapse} ul{list-style:none} table{width:100%} th:first-child,td:first-child{width:28px} th:first-child>*{visibility:hidden} th:nth-child(2){text-align:left}`;
document.head.append(style);
createRoot(document.getElementById('board')).render(
  <ThemeContext.Provider value={theme}><Board board={window.BOARD.board} /></ThemeContext.Provider>
);
requestAnimationFrame(() => setTimeout(() => { document.title = 'drawn'; }, 500));
