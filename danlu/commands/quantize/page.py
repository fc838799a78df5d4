"""The report's HTML: one self-contained page."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from itertools import takewhile

from danlu.commands.pages import parts
from danlu.commands.pages.parts import TableData, section
from danlu.commands.quantize.answers import Answers
from danlu.commands.quantize.bounds import kept_bounds
from danlu.commands.quantize.charts import error_chart, error_map, pair_bars, percent
from danlu.commands.quantize.fitting import fit_rows, fit_table
from danlu.commands.quantize.report import QuantizeReport
from danlu.commands.quantize.speed import PHASES
from danlu.files import size_text

WORST = 8
LEGEND = (
    '<p class="legend"><span><i></i>original</span><span><i class="now"></i>quantized</span></p>'
)
STYLE = """
.tiles { grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); }
figure svg { min-width: 620px; }
.verdict { border-left: 5px solid var(--jade); }
.verdict.broken, .verdict.slow { border-color: var(--cinnabar); }
.verdict p { margin: 2px 0; }
svg .heat { fill: var(--cinnabar); }
svg text.on { fill: #fff; }
svg text.off { fill: var(--ink); }
svg .was { fill: var(--rule); }
svg .now { fill: var(--jade); }
.legend { display: flex; gap: 20px; margin: 0 0 4px; font-size: .88rem; color: var(--soft); }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; background: var(--rule); }
.legend i.now { background: var(--jade); }
.sample mark { background: color-mix(in srgb, var(--gold) 26%, transparent); color: inherit;
  border-radius: 3px; }
.sample .asked { color: var(--soft); }
"""


def page(report: QuantizeReport) -> str:
    """Return the page of a report."""
    body = "".join(
        (
            parts.head(*_top(report)),
            _verdict(report),
            _fit(report),
            section("Layer by layer", _layers(report), _layers_note(report)),
            section("What it predicts", parts.table(_quality(report)), _quality_note(report)),
            section("How fast it is here", _speed(report), _speed_note(report)),
            section("Where the bytes are", parts.table(_sizes(report), bars=True)),
            section("The same beginnings", _answers(report.answers), _answers_note(report)),
            section("Go on", parts.commands(_commands(report))),
            section("What ran here", parts.facts(_facts(report))),
        )
    )
    title = f"{report.out}: quantized"
    footer = "Every number on this page was measured by this run."
    return parts.document(title, body, footer, STYLE)


def _top(report: QuantizeReport) -> tuple[str, str, parts.Tiles]:
    change = report.comparison
    was, now = size_text(report.original_bytes), size_text(report.quantized_bytes)
    tiles = [
        (f"size, {report.quantized_bytes / report.original_bytes:.0%}", f"{was} -> {now}"),
        (f"perplexity, {report.ppl_increase:+.2%}", _perplexities(report)),
        ("mean KL divergence, nats", f"{change.kl_mean:.2e}"),
        ("same most likely token", f"{change.top1_agreement:.2%}"),
    ]
    if report.answers:
        tiles.append(("greedy answers the same", f"{report.same_answers} of {len(report.answers)}"))
    if report.served is not None:
        before, after = report.served
        ratio = after.rate("decode") / before.rate("decode")
        tiles.append(("decode, against bfloat16", f"{ratio:.2f}x"))
    told = f"{report.run.model} as {report.scheme_text}, written as {report.written_as}."
    return "What fewer bits cost, and gained", told, tiles


def _perplexities(report: QuantizeReport) -> str:
    change = report.comparison
    return f"{change.perplexity_reference:.3f} -> {change.perplexity_candidate:.3f}"


def _verdict(report: QuantizeReport) -> str:
    """Return whether bounds are kept; nothing where none was stated."""
    bounds = report.run.bounds
    if bounds.max_ppl_increase is None and bounds.max_kl is None:
        return ""
    if not report.broken:
        told = "".join(
            f"<p>{parts.arrows(text)}</p>" for text in kept_bounds(bounds, report.comparison)
        )
        return f'<div class="card verdict"><b class="right">Kept</b>{told}</div>'
    said = "".join(f"<p>{parts.arrows(bound)}</p>" for bound in report.broken)
    return f'<div class="card verdict broken"><b class="wrong">Broken</b>{said}</div>'


def _fit(report: QuantizeReport) -> str:
    """Return what a budget chose; nothing where there was none."""
    if report.fitted is None:
        return ""
    told = "; ".join(value for label, value in fit_rows(report.fitted) if label != "chosen")
    return section("What fits", parts.table(fit_table(report.fitted)), f"{told}.")


def _layers(report: QuantizeReport) -> str:
    chart = error_chart(error_map(report.layers))
    worst = sorted(report.layers, key=lambda layer: -layer.relative_error)[:WORST]
    rows = [[layer.name, layer.scheme, percent(layer.relative_error)] for layer in worst]
    table = parts.table(TableData(("largest errors", "scheme", "error"), rows))
    return (f'<figure class="card">{chart}</figure>' if chart else "") + table


def _layers_note(report: QuantizeReport) -> str:
    return (
        "Relative error of the outputs of each layer, |y - y'| / |y|, on the inputs that it gets "
        f"behind the layers that were rounded before it. Text: {report.calibrated_on}."
    )


def _quality(report: QuantizeReport) -> TableData:
    change = report.comparison
    rows = [
        ["perplexity", f"{change.perplexity_reference:.4f}", f"{change.perplexity_candidate:.4f}"],
        ["growth of the perplexity", "", f"{report.ppl_increase:+.2%}"],
        ["KL divergence, mean (nats)", "", f"{change.kl_mean:.2e}"],
        ["KL divergence, largest", "", f"{change.kl_max:.2e}"],
        ["same most likely token", "", f"{change.top1_agreement:.2%}"],
        ["largest difference of a logit", "", f"{change.max_logit_difference:.2e}"],
    ]
    return TableData(("", "original", "quantized"), rows)


def _quality_note(report: QuantizeReport) -> str:
    return (
        f"On {report.comparison.num_tokens:,} held-out tokens ({report.compared_on}), both "
        f"computing in {report.compared_in}."
    )


def _speed(report: QuantizeReport) -> str:
    if report.served is None:
        return ""
    before, after = report.served
    bars = pair_bars([_bar(phase, before.rate(phase), after.rate(phase)) for phase in PHASES])
    rows = [
        [side, each.operator, f"{each.layers}", f"{each.decode_ms:.2f}", f"{each.prefill_ms:.2f}"]
        for side, model in (("original", before), ("quantized", after))
        for each in model.layers
    ]
    header = ("", "operator", "layers", "ms per token", "ms per prompt")
    slow = "".join(f"<p>{escape(text)}</p>" for text in report.slower)
    told = f'<div class="card verdict slow">{slow}</div>' if slow else ""
    return (
        f'{told}<figure class="card">{LEGEND}{bars}</figure>{parts.table(TableData(header, rows))}'
    )


def _bar(phase: str, before: float, after: float) -> tuple[str, float, float, str, str]:
    rates = f"{before:,.0f} tokens/s", f"{after:,.0f} tokens/s ({after / before:.2f}x)"
    return phase, before, after, *rates


def _speed_note(report: QuantizeReport) -> str:
    if report.served is None:
        return ""
    speed = report.served[1].speed
    return (
        f"One sequence: a prompt of {speed.prompt_tokens} tokens is read, then "
        f"{speed.new_tokens} are written; medians of {speed.repeats}. Both as they are served, in "
        "bfloat16. Below: the matrix products alone, by the operator that was chosen."
    )


def _sizes(report: QuantizeReport) -> TableData:
    rest = report.quantized_bytes - report.layer_bytes
    counts = Counter(layer.scheme for layer in report.layers)
    rows = [
        [", ".join(f"{count} layers: {scheme}" for scheme, count in counts.items())],
        ["everything else: embeddings, norms, layers left alone"],
    ]
    sizes = report.layer_bytes, rest
    for row, size in zip(rows, sizes, strict=True):
        row += [size_text(size), f"{size / max(1, report.quantized_bytes):.0%}".replace("%", " %")]
    return TableData(("", "size", "share"), rows)


def _answers(answers: Sequence[Answers]) -> str:
    return "".join(
        f'<div class="card sample"><div class="asked"><p>{escape(each.prompt)} ...</p></div>'
        f"{_answer('Original', each.original, each.quantized)}"
        f"{_answer(_same(each), each.quantized, each.original)}</div>"
        for each in answers
    )


def _same(answers: Answers) -> str:
    return f"Quantized, the same for {answers.same_tokens} of {answers.tokens} tokens"


def _answer(title: str, text: str, other: str) -> str:
    """Return an answer; from where it parts from the other, it is marked."""
    pairs = zip(text, other, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    shared, own = escape(text[:same]), escape(text[same:])
    shown = f"{shared}<mark>{own}</mark>" if own else shared
    return f"<div><h3>{escape(title)}</h3><p>{shown or '(nothing)'}</p></div>"


def _answers_note(report: QuantizeReport) -> str:
    return (
        f"Both go on greedily, in {report.compared_in}; {report.same_answers} of "
        f"{len(report.answers)} answers are the same to the last character. Marked: from where "
        "they part."
    )


def _commands(report: QuantizeReport) -> list[tuple[str, str]]:
    return [
        ("talk with it", f"danlu chat {report.out}"),
        ("compare it on other text", f"danlu compare {report.run.model} {report.out} --text FILE"),
        ("do the same again, elsewhere", f"danlu quantize {report.out}/run.json out=again"),
    ]


def _facts(report: QuantizeReport) -> dict[str, str]:
    cache = {"keys and values": report.cache_text()} if report.run.kv_cache else {}
    noted = {f"note {number}": note for number, note in enumerate(report.notes, start=1)}
    return {
        "model": report.run.model,
        "written to": f"{report.out}, as {report.written_as}",
        "calibrated on": report.calibrated_on,
        **cache,
        "seed": str(report.run.seed),
        "took": f"{report.seconds:,.1f} s",
        **report.machine,
        **noted,
    }
