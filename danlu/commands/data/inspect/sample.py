"""A sample of a training in words: what the model reads, and what it learns of it."""

from danlu.commands.data.inspect.views import control_text
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.chat.training import NOT_LEARNED, TrainingText


def sample_text(tokenizer: Tokenizer, text: TrainingText, origin: str = "") -> str:
    """Return a sample decoded: first the input, then the labels, stretches not learned counted."""
    ids, labels = text.rendered.ids, text.labels
    where = f" ({origin})" if origin else ""
    head = f"First sample{where}: {len(ids)} tokens, {text.num_learned} learned"
    notes = [note for note in (text.shortened, text.unlearned, text.problem) if note]
    shown = ["--- input", _decoded(tokenizer, ids), "--- labels", _labels(tokenizer, labels)]
    return "\n".join([head, *notes, *shown])


def _labels(tokenizer: Tokenizer, labels: list[int]) -> str:
    parts, start = [], 0
    while start < len(labels):
        skipped = labels[start] == NOT_LEARNED
        end = start
        while end < len(labels) and (labels[end] == NOT_LEARNED) == skipped:
            end += 1
        count = f"[{end - start} not learned]"
        parts.append(count if skipped else _decoded(tokenizer, labels[start:end]))
        start = end
    return "".join(parts)


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Return the text of ids with control tokens by name, in one piece where none is among them."""
    parts: list[str] = []
    plain: list[int] = []
    for token_id in ids:
        if token_id in tokenizer.control_texts:
            parts += [tokenizer.decode(plain), control_text(tokenizer, token_id)]
            plain = []
        else:
            plain.append(token_id)
    return "".join([*parts, tokenizer.decode(plain)])
