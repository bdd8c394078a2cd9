"""The report's style sheet: light and dark, contrast of at least 4.5 to 1 for text."""

STYLE = """\
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --card: #ffffff; --ink: #1d2430; --soft: #55606f; --rule: #d9dde3; --right: #1b6e3c; --wrong: #a32a1f;
  --series-0: #1f5fa8; --series-1: #c2570c; --series-2: #1b7a4b; --series-3: #8a2f8f; --series-4: #7a5c00; --series-5: #b02a50;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181f; --card: #1c222b; --ink: #e8ebf0; --soft: #a8b2c0; --rule: #38414d; --right: #6fce94; --wrong: #ff9a8f;
    --series-0: #7db4f5; --series-1: #f2a566; --series-2: #74d1a1; --series-3: #dd96e2; --series-4: #e0c15c; --series-5: #f58fae;
  }
}
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--rule); padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 0; }
small { color: var(--soft); font-weight: normal; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .95rem; }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 600; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.25rem 0; padding: .9rem; background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg text.label, svg text.value { fill: var(--ink); font-size: 13px; }
svg .grid { stroke: var(--rule); fill: none; }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; }
article { margin: 1rem 0; padding: .9rem; background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; }
.answer { margin: .3rem 0 .6rem; font-size: 1.1rem; }
.right { color: var(--right); }
.wrong { color: var(--wrong); }
details { border-top: 1px solid var(--rule); padding: .4rem 0; }
summary { cursor: pointer; }
details p { margin: .5rem 0 .2rem; font-size: .95rem; }
.meter { display: block; height: 4px; margin-top: .3rem; background: var(--rule); border-radius: 2px; }
.meter span { display: block; height: 100%; background: var(--series-0); border-radius: 2px; }
"""
