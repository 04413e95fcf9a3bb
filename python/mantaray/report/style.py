"""The style of a report's page, light and dark, for every width."""

CSS = """
:root { color-scheme: light dark;
  --ground: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --quiet: #59636e; --rule: #d5dae0;
  --good: #1a7f37; --bad: #b3261e; --c1: #0b62c4; --c2: #c2410c; --c3: #1a7f37; --c4: #7b3fbf; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #14171b; --card: #1d2126; --ink: #e8eaed; --quiet: #a3acb6; --rule: #3a4149;
  --good: #57c77a; --bad: #ff8a80; --c1: #6cb2ff; --c2: #ff9e5e; --c3: #57c77a; --c4: #c8a1ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .25rem; } p { margin: .25rem 0; } .quiet { color: var(--quiet); }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: .75rem;
  min-width: 0; }
.chips { display: flex; flex-wrap: wrap; gap: .35rem; margin: .5rem 0; padding: 0; list-style: none; }
.chips li { border: 1px solid var(--rule); border-radius: 999px; padding: 0 .6rem; font-size: .85rem; }
.attached { color: var(--good); } .refused { color: var(--bad); font-weight: 600; }
.off, .native { color: var(--quiet); } ul.look li { color: var(--bad); } .well { color: var(--good); }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--rule); padding: .3rem .7rem .3rem 0; text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--quiet); font-weight: 600; }
svg { display: block; width: 100%; max-width: 36rem; height: auto; }
svg .axis { fill: var(--quiet); font-size: 11px; } svg .name { font-size: 12px; font-weight: 600; }
svg .grid { stroke: var(--rule); stroke-width: 1; } svg .line { fill: none; stroke-width: 2; }
svg .line.c1, svg .dot.c1 { stroke: var(--c1); } svg .line.c2, svg .dot.c2 { stroke: var(--c2); }
svg .line.c3, svg .dot.c3 { stroke: var(--c3); } svg .line.c4, svg .dot.c4 { stroke: var(--c4); }
svg .dot { fill: var(--card); } svg .name.c1 { fill: var(--c1); } svg .name.c2 { fill: var(--c2); }
svg .name.c3 { fill: var(--c3); } svg .name.c4 { fill: var(--c4); }
.tree { list-style: none; margin: 0; padding: 0; }
.tree li { border-left: 2px solid var(--rule); padding: .1rem 0 .1rem .6rem; }
"""
