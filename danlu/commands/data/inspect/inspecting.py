"""`danlu data inspect`: rows as the model sees them, and what looks wrong about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from danlu.commands.data.inspect.checks import Finding, findings
from danlu.commands.data.inspect.embedding import untrained_tokens
from danlu.commands.data.inspect.plan import Plan
from danlu.commands.data.inspect.views import Rendering, RowView
from danlu.data.any_source import read_examples
from danlu.errors import CheckpointError, bullet_list
from danlu.hub import resolve
from danlu.loading import load_tokenizer
from danlu.tokenizer import Tokenizer


@dataclass(frozen=True)
class Inspection:
    """Rows that were looked at.

    Attributes:
        facts: label and value: what was read, and how.
        rows: what each row that was checked became; two for a preference pair.
        shown: those of the first rows of each source.
        findings: what looks wrong, the grave first.
        names: ids of control tokens, with their names.
    """

    facts: list[tuple[str, str]]
    rows: list[RowView]
    shown: list[RowView]
    findings: list[Finding] = field(default_factory=list)
    names: Mapping[int, str] = field(default_factory=dict)


def inspect_data(
    plan: Plan, num_checked: int | None = None, num_shown: int | None = None
) -> Inspection:
    """Look at the first rows of each source.

    Args:
        plan: what to look at.
        num_checked: how many rows of each source; None: all.
        num_shown: how many of them are to be shown; None: all.

    Raises:
        DataError: if there is nothing to read.
        TokenizerError, CheckpointError: if the model's files are wrong.
    """
    folder = resolve(plan.model)
    tokenizer = load_tokenizer(folder, plan.family)
    rendering = Rendering(
        tokenizer, plan.format, plan.learn, plan.max_tokens, plan.long, plan.template_options
    )
    unreadable: list[str] = []
    rows: list[RowView] = []
    shown: list[RowView] = []
    for source in plan.sources:
        for number, example in enumerate(islice(read_examples(source, unreadable), num_checked)):
            views = list(rendering.views(example))
            rows += views
            shown += views if num_shown is None or number < num_shown else []
    found = [
        *_unreadable(unreadable),
        *findings(tokenizer, plan.format, rows),
        *_untrained(folder, plan, tokenizer, rows),
    ]
    found.sort(key=lambda finding: not finding.is_grave)
    return Inspection(_facts(plan, tokenizer, rows), rows, shown, found, tokenizer.control_texts)


def _unreadable(problems: Sequence[str]) -> list[Finding]:
    if not problems:
        return []
    listed = bullet_list(list(problems), limit=3)
    return [Finding(f"{len(problems)} rows cannot be read:{listed}", "Fix or remove them.")]


def _untrained(
    folder: Path, plan: Plan, tokenizer: Tokenizer, rows: Sequence[RowView]
) -> list[Finding]:
    """Return a finding about the control tokens that the rows use; none without weights."""
    tokens = _control_tokens_in(rows)
    if not (folder / "config.json").is_file():
        return []
    try:
        return untrained_tokens(folder, plan.family, tokens, tokenizer.vocab_size)
    except CheckpointError as error:
        what = f"The embedding was not looked at: {error}"
        return [Finding(what, "Whether its control tokens were trained is not known.", False)]


def _control_tokens_in(rows: Sequence[RowView]) -> dict[int, str]:
    return {token.token_id: token.text for row in rows for token in row.tokens if token.is_control}


def _facts(plan: Plan, tokenizer: Tokenizer, rows: Sequence[RowView]) -> list[tuple[str, str]]:
    num_tokens = sum(len(row.tokens) for row in rows)
    learned = sum(row.num_learned for row in rows)
    part = f"{learned:,} of {num_tokens:,} ({learned / max(num_tokens, 1):.0%})"
    return [
        ("data", ", ".join(source.path for source in plan.sources)),
        ("tokenizer", plan.model),
        ("chat format", plan.format or tokenizer.chat_format or "none"),
        ("longest row", "any" if plan.max_tokens is None else f"{plan.max_tokens:,} tokens"),
        ("rows looked at", f"{len(rows):,}"),
        ("tokens learned", part),
    ]


def label_text(inspection: Inspection, label: int) -> str:
    """Return the name of a label that is another id than its token's."""
    return inspection.names.get(label, str(label))
