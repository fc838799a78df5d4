"""Perplexity: exp of the mean negative log-likelihood (natural) of the tokens of some documents.

Every document is scored alone. Its tokens follow a prefix (by default what the tokenizer puts
before a text, such as BOS), which is given and not scored; without a prefix the first token has no
predecessor and is not scored either. A document longer than the context is cut into windows that
follow each other without overlap: each token is scored once, with the tokens of its own window
before it. The sum over tokens of all documents is what is averaged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from danlu.errors import DataError
from danlu.eval.scoring import by_length, float_logits, hidden_states, logit_chunks
from danlu.models.decoder import Decoder
from danlu.progress import Progress, Silent, working
from danlu.tokenizer import Tokenizer


@dataclass(frozen=True)
class Score:
    """The summed negative log-likelihood of some tokens.

    Attributes:
        nll_sum: in nats.
        num_tokens: how many tokens were scored.
    """

    nll_sum: float
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(nll_sum / num_tokens); infinite where a float cannot hold it."""
        mean = self.nll_sum / max(1, self.num_tokens)
        return math.exp(mean) if mean < 700 else mean * math.inf


@dataclass(frozen=True)
class PerplexityResult(Score):
    """The score of all documents together, and of each in order."""

    documents: list[Score]


@dataclass(frozen=True)
class Window:
    """A part of a document: each token but the first is predicted from those before it."""

    document: int
    ids: list[int]


def perplexity(
    decoder: Decoder,
    tokenizer: Tokenizer,
    documents: Sequence[str],
    max_seq_len: int | None = None,
    progress: Progress | None = None,
) -> PerplexityResult:
    """Return the perplexity of texts, each after `tokenizer.prompt_prefix()`.

    Args:
        decoder: the model.
        tokenizer: its tokenizer.
        documents: the texts.
        max_seq_len: tokens in one window; None: the model's context.
        progress: counts scored tokens.

    Raises:
        DataError: if there is no token to score.
    """
    encoded = tokenizer.encode_batch(list(documents))
    return token_perplexity(decoder, encoded, tokenizer.prompt_prefix(), max_seq_len, progress)


def token_perplexity(
    decoder: Decoder,
    documents: Sequence[Sequence[int]],
    prefix: Sequence[int] = (),
    max_seq_len: int | None = None,
    progress: Progress | None = None,
) -> PerplexityResult:
    """Return the perplexity of documents that are tokens already; see `perplexity`.

    Args:
        decoder: the model.
        documents: token ids without the prefix.
        prefix: tokens in front of each document.
        max_seq_len: tokens in one window; None: the model's context.
        progress: counts scored tokens.
    """
    length = max_seq_len or decoder.max_text_tokens
    windows = [
        window
        for number, ids in enumerate(documents)
        for window in cut_windows(number, [*prefix, *ids], length)
    ]
    if not windows:
        raise DataError(
            f"There is no token to score in {len(documents)} documents. "
            "Expected texts of at least one token that follows another."
        )
    sums = _score_windows(decoder, windows, progress or Silent())
    return _collect(windows, sums, len(documents))


def cut_windows(document: int, ids: Sequence[int], max_seq_len: int) -> list[Window]:
    """Return windows of at most `max_seq_len` inputs; each begins with the end of the last."""
    starts = range(0, len(ids) - 1, max_seq_len)
    return [Window(document, list(ids[start : start + max_seq_len + 1])) for start in starts]


@torch.inference_mode()
def _score_windows(decoder: Decoder, windows: Sequence[Window], progress: Progress) -> list[float]:
    """The negative log-likelihood of each window."""
    lengths = [len(window.ids) - 1 for window in windows]
    sums = [0.0] * len(windows)
    with working(progress, "Perplexity", sum(lengths)) as bar:
        for batch in by_length(lengths):
            scored = _score_rows(decoder, [windows[index].ids for index in batch])
            for index, nll in zip(batch, scored, strict=True):
                sums[index] = nll
            bar.advance(sum(lengths[index] for index in batch))
    return sums


def _score_rows(decoder: Decoder, rows: Sequence[list[int]]) -> list[float]:
    hidden_ND = hidden_states(decoder, [row[:-1] for row in rows])
    targets = [token for row in rows for token in row[1:]]
    targets_N = torch.tensor(targets, device=hidden_ND.device)
    losses = [
        F.cross_entropy(float_logits(decoder, hidden_ND[part]), targets_N[part], reduction="none")
        for part in logit_chunks(decoder.config.vocab_size, len(targets))
    ]
    per_row = torch.split(torch.cat(losses).cpu().double(), [len(row) - 1 for row in rows])
    return [float(losses_T.sum()) for losses_T in per_row]


def _collect(
    windows: Sequence[Window], sums: Sequence[float], num_documents: int
) -> PerplexityResult:
    nll, tokens = [0.0] * num_documents, [0] * num_documents
    for window, nll_sum in zip(windows, sums, strict=True):
        nll[window.document] += nll_sum
        tokens[window.document] += len(window.ids) - 1
    scores = [Score(*pair) for pair in zip(nll, tokens, strict=True)]
    return PerplexityResult(sum(nll), sum(tokens), scores)
