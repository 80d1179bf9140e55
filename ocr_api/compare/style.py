"""How the report looks: light and dark, narrow and wide, on paper."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c1f23; --faint: #59626c; --line: #d5dae0; --panel: #f5f7f9;
  --link: #0a56b3; --bad: #8f1420; --bad-panel: #fdecec;
  --gone: #82071e; --gone-panel: #ffe1df; --new: #0b4f22; --new-panel: #d2f5da;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --ink: #e4e7ea; --faint: #a1abb5; --line: #373e45; --panel: #1c2126;
    --link: #7db7ff; --bad: #ffb3b0; --bad-panel: #3a1719;
    --gone: #ffc4bf; --gone-panel: #551a1c; --new: #b4f0c2; --new-panel: #153f22;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem clamp(1rem, 3vw, 3rem) 4rem; max-width: 120rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h4 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .4rem 0; max-width: 75ch; }
a { color: var(--link); }
:target { scroll-margin-top: 1rem; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.faint { color: var(--faint); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding-bottom: .4rem; }
th, td { padding: .4rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
thead th { vertical-align: bottom; font-weight: 600; border-bottom-color: var(--faint); }
td:not(.word) { white-space: nowrap; }
th:first-child, .word { text-align: left; overflow-wrap: break-word; max-width: 20rem; }
ol.links, ul.links { padding-left: 1.4rem; margin: .4rem 0; }
.page { border-top: 1px solid var(--line); padding: 1.25rem 0 2rem; }
.side { display: flex; gap: 1.25rem; align-items: start; }
.side > figure { flex: 1 1 0; min-width: 14rem; }
.models {
  flex: var(--models) 1 0; min-width: 0; display: grid; gap: 1.25rem; align-items: start;
  grid-template-columns: repeat(var(--models), minmax(18rem, 1fr)); overflow-x: auto;
}
figure { margin: 0; position: sticky; top: 1rem; }
figure img {
  display: block; max-width: 100%; height: auto; max-height: calc(100vh - 2rem);
  width: auto; margin: 0 auto; border: 1px solid var(--line); background: #fff;
}
.model { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; }
.model > * { padding: .6rem .9rem; margin: 0; }
.model > header { border-bottom: 1px solid var(--line); }
.facts {
  list-style: none; margin: .25rem 0 0; padding: 0; color: var(--faint); font-size: .875rem;
  display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-variant-numeric: tabular-nums;
}
.about { color: var(--faint); font-size: .875rem; padding-bottom: 0; }
.text {
  white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; font-size: .85rem; line-height: 1.5;
  font-family: ui-monospace, "SF Mono", "Cascadia Mono", "Liberation Mono", monospace;
}
ins, del { border-radius: .15rem; padding: .05em 0; }
ins { color: var(--new); background: var(--new-panel); text-decoration: underline; }
del { color: var(--gone); background: var(--gone-panel); text-decoration: line-through; }
.bad, .warnings { font-size: .9rem; overflow-wrap: anywhere; }
.bad { color: var(--bad); background: var(--bad-panel); border-left: .3rem solid var(--bad); }
p.bad { padding: .5rem .9rem; }
ul.warnings { padding-left: 2rem; }
details { border-top: 1px solid var(--line); }
summary { cursor: pointer; color: var(--link); font-size: .9rem; }
details .text { padding-top: .5rem; }
@media (max-width: 62rem) {
  .side { display: block; }
  .models { grid-template-columns: minmax(0, 1fr); margin-top: 1.25rem; }
  figure { position: static; }
  figure img { max-height: none; }
}
@media print {
  body { padding: 0; max-width: none; font-size: 9pt; }
  .side, .models { gap: .75rem; }
  .side { display: flex; }
  .side > figure { min-width: 0; }
  .models { margin: 0; grid-template-columns: repeat(var(--models), minmax(0, 1fr)); gap: .75rem; }
  .scroll, .models { overflow: visible; }
  th, td { padding: .2rem .4rem; }
  figure { position: static; }
  figure img { max-height: 24cm; }
  .model { border-radius: 0; }
  .text { font-size: 7.5pt; }
  h2, h3, h4, .model > header { break-after: avoid; }
  details:not([open]) { display: none; }
}
"""
"""No address in it: the report loads nothing."""
