"""The look of reports: one style sheet, light and dark, from a phone to a wide screen."""

STYLE = """
:root {
  --paper: #faf7f1; --card: #ffffff; --ink: #23201c; --soft: #736b60; --rule: #e4ddd0;
  --cinnabar: #b23a2a; --gold: #a97c1d; --jade: #2c7a6b; --tint: #f3ece0;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171512; --card: #201d19; --ink: #ece6db; --soft: #a1988a; --rule: #38332b;
    --cinnabar: #e0705d; --gold: #d8aa4e; --jade: #63bba8; --tint: #2a2620;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC",
    "Microsoft YaHei", "Noto Sans CJK SC", sans-serif;
}
main { max-width: 1000px; margin: 0 auto; padding: 40px 20px 64px; }
h1, h2 { font-family: "Iowan Old Style", Palatino, Georgia, "Songti SC", "Noto Serif", serif;
  font-weight: 600; line-height: 1.2; }
h1 { font-size: clamp(1.9rem, 5vw, 2.8rem); margin: 0; }
h2 { font-size: 1.45rem; margin: 56px 0 6px; }
p { margin: 6px 0 14px; }
.soft { color: var(--soft); }
.head { display: flex; gap: 20px; align-items: center; }
.seal { flex: none; width: 64px; height: 64px; border-radius: 10px; background: var(--cinnabar);
  color: #fff; font: 600 38px/64px "Songti SC", "Noto Serif CJK SC", serif; text-align: center; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px;
  margin: 28px 0 0; }
.tile, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; }
.tile { padding: 14px 18px; }
.tile b { display: block; font-size: 1.3rem; white-space: nowrap; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .88rem; }
.card { padding: 16px 18px; margin: 14px 0; overflow-x: auto; }
ol.life { list-style: none; margin: 18px 0 0; padding: 0; }
ol.life li { position: relative; padding: 0 0 20px 52px; }
ol.life li::before { content: attr(data-mark); position: absolute; left: 0; top: 0; width: 32px;
  height: 32px; border-radius: 50%; background: var(--card); border: 2px solid var(--cinnabar);
  color: var(--cinnabar); font-weight: 600; text-align: center; line-height: 28px; }
ol.life li:not(:last-child)::after { content: ""; position: absolute; left: 15px; top: 34px;
  bottom: 2px; width: 2px; background: var(--rule); }
ol.life b { margin-right: 8px; }
ol.life time { color: var(--soft); font-size: .88rem; white-space: nowrap; }
ol.life p { margin: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 14px; }
figure { margin: 0; }
figcaption { font-weight: 600; margin-bottom: 6px; }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--soft); font-family: inherit; }
svg .rule { stroke: var(--rule); stroke-width: 1; }
svg polyline { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .train polyline { stroke: var(--cinnabar); }
svg .held polyline { stroke: var(--jade); }
svg .held circle { fill: var(--jade); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 10px; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; vertical-align: baseline; }
th { color: var(--soft); font-weight: 500; font-size: .88rem; white-space: normal; }
td:first-child, th:first-child { text-align: left; }
tbody tr:last-child td { border-bottom: 0; }
td.bar { background: linear-gradient(var(--jade), var(--jade)) left bottom / var(--share) 3px
  no-repeat content-box; padding-bottom: 0; line-height: 2.1; }
.sample { display: grid; grid-template-columns: 1fr 1fr; gap: 10px 18px; }
.sample > * { min-width: 0; }
.sample .asked { grid-column: 1 / -1; white-space: pre-wrap; }
.sample h3 { margin: 0; font-size: .82rem; color: var(--soft); font-weight: 500; }
.sample p { margin: 2px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.right { color: var(--jade); }
.wrong { color: var(--cinnabar); }
pre { background: var(--tint); border-radius: 10px; padding: 12px 14px; overflow-x: auto;
  font: 14px/1.7 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 8px 0; }
pre i { color: var(--soft); font-style: normal; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 0; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 56px; color: var(--soft); font-size: .88rem; }
@media (max-width: 560px) {
  main { padding: 24px 14px 40px; }
  .sample { grid-template-columns: 1fr; }
  .card { padding: 12px 10px; }
  th, td { padding: 6px 5px; font-size: .85rem; }
  .seal { width: 48px; height: 48px; font-size: 28px; line-height: 48px; }
  dl.facts { grid-template-columns: 1fr; gap: 0; }
  dl.facts dd { margin-bottom: 8px; }
}
"""
