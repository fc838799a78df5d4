"""Style and script of the page of `danlu data inspect`: no file, font or script from elsewhere."""

STYLE = """
:root {
  color-scheme: light;
  --paper: #fbfaf7; --card: #ffffff; --ink: #23211d; --faint: #8a857b; --line: #e6e2d9;
  --system: #7a4fbf; --user: #1f63b8; --assistant: #2d7d46; --tool: #a86200; --control: #8a857b;
  --text: #23211d; --learn: #bfe8c9; --learn-edge: #2d7d46; --grave: #b3261e; --mild: #a86200;
  --grave-paper: #fdeeec; --mild-paper: #fdf5e6; --good: #2d7d46; --shade: rgba(0, 0, 0, .05);
}
:root[data-theme=dark] {
  color-scheme: dark;
  --paper: #161614; --card: #1e1e1b; --ink: #e9e6df; --faint: #8f8a80; --line: #33322d;
  --system: #c3a6f5; --user: #86b7f5; --assistant: #8fd3a4; --tool: #f0b866; --control: #8f8a80;
  --text: #e9e6df; --learn: #1f4d2d; --learn-edge: #6cc487; --grave: #ff8a80; --mild: #f0b866;
  --grave-paper: #3a1f1d; --mild-paper: #38301d; --good: #8fd3a4; --shade: rgba(255, 255, 255, .06);
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "PingFang SC", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 80px; }
h1 { font-size: 24px; margin: 0 0 4px; letter-spacing: -.01em; }
.sub { color: var(--faint); margin: 0 0 20px; }
.facts { display: flex; flex-wrap: wrap; gap: 1px; background: var(--line);
  border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.facts div { flex: 1 1 230px; background: var(--card); padding: 10px 14px;
  overflow-wrap: anywhere; }
.facts dt { color: var(--faint); font-size: 12px; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; }
.finding { border-left: 4px solid var(--mild); background: var(--mild-paper); margin: 10px 0;
  border-radius: 0 8px 8px 0; padding: 10px 14px; overflow-wrap: anywhere; white-space: pre-line; }
.finding.grave { border-color: var(--grave); background: var(--grave-paper); }
.finding b { font-weight: 600; }
.finding.grave b::before { content: "\\26a0\\00a0"; color: var(--grave); }
.finding span { display: block; color: var(--faint); }
.good { color: var(--good); font-weight: 600; margin: 18px 0; }
.bar { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: 8px 18px;
  align-items: center; margin: 24px -8px 8px; padding: 10px 8px; background: var(--paper);
  border-bottom: 1px solid var(--line); font-size: 13px; }
.bar .swatch { display: inline-flex; align-items: center; gap: 6px; }
.bar label { cursor: pointer; }
.bar button { margin-left: auto; border: 1px solid var(--line); border-radius: 7px;
  background: var(--card); color: var(--ink); padding: 3px 10px; font: inherit; cursor: pointer; }
.row { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  margin: 16px 0; overflow: hidden; }
.row header { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline;
  padding: 10px 14px; border-bottom: 1px solid var(--line); }
.row header b { font-weight: 600; overflow-wrap: anywhere; }
.row header span { color: var(--faint); font-size: 13px; font-variant-numeric: tabular-nums; }
.row header em { font-style: normal; font-size: 13px; color: var(--mild); flex-basis: 100%; }
.row header em.grave { color: var(--grave); }
.meter { display: block; height: 3px; background: var(--learn-edge); }
.tokens { margin: 0; padding: 14px; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 14px/1.75 ui-monospace, "SF Mono", "Cascadia Mono", "Noto Sans Mono CJK SC", monospace; }
i { font-style: normal; border-radius: 3px; padding: 1px 0; color: var(--text);
  box-shadow: inset 1px 0 0 var(--shade); }
i.system { color: var(--system); } i.user { color: var(--user); } i.tool { color: var(--tool); }
i.assistant { color: var(--assistant); } i.control { color: var(--control); }
i.pill { border: 1px solid var(--line); padding: 0 4px; margin: 0 1px; font-size: 12px;
  border-radius: 6px; }
i.learned { color: var(--ink); box-shadow: inset 0 -2px 0 var(--learn-edge);
  background: color-mix(in srgb, var(--learn) calc(var(--w, 1) * 100%), transparent); }
i:hover { outline: 2px solid var(--ink); outline-offset: 1px; }
i u { text-decoration: none; color: var(--faint); font-size: 11px; }
i sup { color: var(--grave); font-size: 10px; margin-left: 2px; }
body.only i:not(.learned) { opacity: .25; }
body.plain i { box-shadow: none; }
#tip { position: fixed; z-index: 9; pointer-events: none; display: none; max-width: 340px;
  background: var(--ink); color: var(--paper); border-radius: 8px; padding: 8px 12px;
  font-size: 13px; line-height: 1.45; box-shadow: 0 6px 24px rgba(0, 0, 0, .25); }
#tip b { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
@media (max-width: 600px) { main { padding: 16px 10px 60px; } .bar { margin: 16px 0 8px; } }
@media print { .bar button, .bar label { display: none; } .row { break-inside: avoid; } }
"""

SCRIPT = """
const root = document.documentElement, tip = document.getElementById("tip");
const dark = matchMedia("(prefers-color-scheme: dark)");
root.dataset.theme = dark.matches ? "dark" : "light";
document.getElementById("theme").onclick = () =>
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
for (const name of ["only", "plain"]) document.getElementById(name).onchange = event =>
  document.body.classList.toggle(name, event.target.checked);
document.addEventListener("pointermove", event => {
  const token = event.target.closest ? event.target.closest("i[data-t]") : null;
  tip.style.display = token ? "block" : "none";
  if (!token) return;
  const [id, label, weight] = token.dataset.t.split("|");
  const learned = token.classList.contains("learned");
  tip.replaceChildren();
  const line = (name, value) => {
    const row = document.createElement("div"), bold = document.createElement("b");
    bold.textContent = value; row.append(name + " ", bold); tip.append(row);
  };
  line("token", JSON.stringify(token.dataset.s ?? token.firstChild.textContent));
  line("id", id);
  line("role", token.classList[0]);
  line("learned", learned ? "yes" : "no");
  if (learned && label !== id) line("learns instead", label);
  if (learned) line("weight", weight);
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.min(event.clientX + 14, innerWidth - box.width - 8) + "px";
  tip.style.top = Math.min(event.clientY + 18, innerHeight - box.height - 8) + "px";
});
"""
