"""The generation loop: prefill a batch, then sample and decode until every row has ended."""

from collections.abc import Callable, Iterator, Sequence

from danlu.engine.batches import Part, plan_batches
from danlu.engine.runner import PREFILL_TOKENS, StaticBatch
from danlu.engine.sampler import Sampled, Sampler, make_sampler
from danlu.engine.sequence import GenerationSequence, Request
from danlu.engine.text import AnswerText
from danlu.errors import CheckpointError
from danlu.models.decoder import Decoder
from danlu.progress import Progress, Silent, working

# What a batch's keys and values may take, unless a single sequence needs more.
KV_CACHE_BYTES = 1 << 30

TextFactory = Callable[[Request], AnswerText | None]


def no_text(request: Request) -> None:
    """Follow no text: stop strings are not looked for."""


class Generator:
    """Continues prompts of tokens; knows nothing of text but the `AnswerText` it is handed.

    Args:
        decoder: the model, in evaluation mode.
        kv_cache_bytes: bound on the cache of one batch.
        prefill_tokens: prompt tokens in one forward pass.
    """

    def __init__(
        self,
        decoder: Decoder,
        kv_cache_bytes: int = KV_CACHE_BYTES,
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        self.decoder = decoder
        self._budget_tokens = max(1, kv_cache_bytes // decoder.cache_token_bytes())
        self._prefill_tokens = prefill_tokens

    def run(
        self,
        requests: Sequence[Request],
        make_text: TextFactory = no_text,
        progress: Progress | None = None,
    ) -> list[list[GenerationSequence]]:
        """Answer all requests; return each request's answers in order.

        Args:
            requests: what to continue.
            make_text: makes what follows the text of an answer, where that is needed.
            progress: hears of each answer that ends.
        """
        answers = [
            [GenerationSequence(r, i, make_text(r)) for i in range(r.params.n)] for r in requests
        ]
        with working(progress or Silent(), "Generating", sum(map(len, answers))) as bar:
            slots_in_front = self.decoder.prefix_tokens
            for parts in plan_batches(requests, self._budget_tokens, slots_in_front):
                for finished in self._steps(_rows(parts, answers)):
                    bar.advance(finished)
        return answers

    def stream(self, request: Request, text: AnswerText | None) -> Iterator[GenerationSequence]:
        """Answer one request once; yield the growing answer after each token."""
        sequence = GenerationSequence(request, 0, text)
        for _ in self._steps([[sequence]]):
            yield sequence

    def _steps(self, groups: Sequence[Sequence[GenerationSequence]]) -> Iterator[int]:
        """Run one batch to its end; yield the number of answers that ended with each new token.

        Args:
            groups: answers by prompt; a group shares one row of the prefill.
        """
        rows = [sequence for group in groups for sequence in group]
        longest_answer = max(sequence.request.max_new_tokens for sequence in rows)
        prompts = [group[0].prompt_ids for group in groups]
        batch = StaticBatch(self.decoder, prompts, longest_answer, self._prefill_tokens)
        logits_BV = batch.prefill()
        if len(rows) > len(groups):
            copies = [row for row, group in enumerate(groups) for _ in group]
            batch.select(copies)
            logits_BV = logits_BV[copies]
        sampler = self._sampler(rows)
        while rows:
            sampled = sampler(logits_BV)
            kept = _append(rows, sampled, logits_BV.shape[1])
            yield len(rows) - len(kept)
            tokens_B = sampled.tokens_B
            if len(kept) < len(rows):
                rows = [rows[row] for row in kept]
                if not rows:
                    return
                batch.select(kept)
                tokens_B = tokens_B[kept]
                sampler = self._sampler(rows)
            logits_BV = batch.decode(tokens_B)

    def _sampler(self, rows: Sequence[GenerationSequence]) -> Sampler:
        return make_sampler(rows, self.decoder.config.vocab_size, self.decoder.device)


def _rows(
    parts: Sequence[Part], answers: Sequence[Sequence[GenerationSequence]]
) -> list[list[GenerationSequence]]:
    return [[answers[part.request][index] for index in part.samples] for part in parts]


def _append(rows: Sequence[GenerationSequence], sampled: Sampled, vocab_size: int) -> list[int]:
    """Give each row its token; return the rows that go on.

    Raises:
        CheckpointError: if there was none to draw.
    """
    kept = []
    for row, token in enumerate(sampled.tokens_B.tolist()):
        if token >= vocab_size:  # behind the last: no sum of probabilities passes a number
            raise CheckpointError(
                "The logits of the model are not finite, so no token can be drawn. Expected finite "
                "weights, and a dtype that they do not overflow in: check the checkpoint, or open "
                "it in float32."
            )
        sequence = rows[row]
        report = sampled.logprobs[row] if sampled.logprobs else None
        if report is not None:
            sequence.logprobs.append(report)
        if not sequence.append(token):
            kept.append(row)
    return kept
