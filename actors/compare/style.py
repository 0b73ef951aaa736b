"""How the report looks. A path has its colour everywhere; the colours can be told apart by everybody."""

from __future__ import annotations

PATH_COLOURS = {"direct": "#6c7a89", "nested": "#d55e00", "hosted": "#0072b2", "mixed": "#009e73"}
TREATMENT_COLOURS = {
    "emulated": "#5b2a86",
    "modified": "#9468b8",
    "passed": "#c3a6d8",
    "native": "#8fa3ad",
    "own": "#6c7a89",
}

STYLE = """
:root { --ink: #1b1f23; --paper: #ffffff; --soft: #5a6570; --line: #d5dae0;
  --wrong: #b00020; --right: #1a7f37; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --paper: #14171a; --soft: #9aa5b1; --line: #343b43;
    --wrong: #ff7b86; --right: #57c878; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
h2 { margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line); font-size: 1.25rem; }
h3 { margin: 1.5rem 0 .25rem; font-size: 1rem; }
p { margin: .4rem 0; }
a { color: inherit; }
.verdict { font-size: 1.1rem; font-weight: 600; }
.note, footer, .ratio { color: var(--soft); }
.note { font-size: .9rem; }
.wrong { color: var(--wrong); font-weight: 600; }
.right { color: var(--right); font-weight: 600; }
.open { color: var(--soft); }
ul.plain { list-style: none; padding: 0; }
ul.modelled li { border-left: 4px dashed var(--line); padding-left: .5rem; list-style: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .7rem; text-align: left; vertical-align: top; font-weight: inherit; }
thead th { border-bottom: 1px solid var(--line); font-weight: 600; white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
.level0 { font-weight: 600; }
.level1 th { padding-left: 1.6rem; }
.level2 th { padding-left: 2.8rem; }
.level2 { color: var(--soft); }
svg { display: block; width: 100%; max-width: 56rem; height: auto; margin: .5rem 0; }
svg.defs { position: absolute; width: 0; height: 0; margin: 0; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--ink); stroke-width: 1; }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; }
svg .point { fill: var(--paper); stroke: var(--ink); stroke-width: 2; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
svg .soft { fill: var(--soft); }
svg .bar { fill: #9468b8; opacity: .85; }
svg .depth0, svg .depth1 { fill: #6c7a89; }
svg .depth2 { fill: #d55e00; }
svg .depth3 { fill: #5b2a86; }
summary { cursor: pointer; margin: .5rem 0; font-weight: 600; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); font-size: .9rem; }
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #444; --line: #999; }
  body { max-width: none; font-size: 10pt; padding: 0; }
  h2, h3 { break-after: avoid; }
  tr, svg { break-inside: avoid; }
  .wide { overflow: visible; }
}
"""
