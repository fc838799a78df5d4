"""What models are compared on: the user's text, or text that the reference model writes itself."""

from pathlib import Path

from danlu.data.sources import read_corpus
from danlu.engine.llm import LLM
from danlu.engine.sampling import SamplingParams
from danlu.eval.scoring import by_length
from danlu.models.decoder import Decoder
from danlu.progress import Progress
from danlu.tokenizer import Tokenizer

MAX_TEXT_TOKENS = 16_384
WRITTEN_TEXTS = 16
WRITTEN_TOKENS = 128


def comparison_batches(
    decoder: Decoder, tokenizer: Tokenizer, text: Path | None, progress: Progress, seed: int = 0
) -> list[list[list[int]]]:
    """Return batches of token rows that fit the model's context.

    Args:
        decoder: the reference.
        tokenizer: its tokenizer.
        text: a corpus; None: the reference writes texts, at temperature 1.
        progress: of the writing.
        seed: of the writing.

    Raises:
        DataError: if the text cannot be read or is empty.
    """
    if text is None:
        rows = written_rows(decoder, tokenizer, progress, seed=seed)
    else:
        rows = _text_rows(tokenizer, text, decoder.max_text_tokens)
    return [[rows[i] for i in batch] for batch in by_length([len(row) for row in rows])]


def written_rows(
    decoder: Decoder,
    tokenizer: Tokenizer,
    progress: Progress,
    count: int = WRITTEN_TEXTS,
    max_tokens: int = WRITTEN_TOKENS,
    seed: int = 0,
) -> list[list[int]]:
    """Return texts that a model writes at temperature 1, with what they begin with.

    Args:
        decoder: the model.
        tokenizer: its tokenizer.
        progress: of the writing.
        count: texts.
        max_tokens: of a text; it also ends with the model's context.
        seed: decides them.
    """
    start = tokenizer.prompt_prefix() or [tokenizer.eos_id or 0]
    room = min(max_tokens, decoder.max_text_tokens - len(start))
    params = SamplingParams(n=count, max_tokens=room, temperature=1.0, seed=seed)
    answers = LLM.from_parts(decoder, tokenizer).generate([start], params, progress)
    return [[*answer.prompt_token_ids, *answer.token_ids] for answer in answers]


def _text_rows(tokenizer: Tokenizer, text: Path, max_seq_len: int) -> list[list[int]]:
    """Return the documents in windows, up to a budget of tokens."""
    rows: list[list[int]] = []
    budget = MAX_TEXT_TOKENS
    for document in read_corpus(text):
        ids = [*tokenizer.prompt_prefix(), *tokenizer.encode(document.text)][:budget]
        rows += [ids[i : i + max_seq_len] for i in range(0, len(ids), max_seq_len)]
        budget -= len(ids)
        if budget <= 0:
            break
    return rows
