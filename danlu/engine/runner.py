"""Prefill and decode of one static batch with a KV cache: the only part that runs the model.

prompts      cache slots (left-padded)        one step
[a b c d]    | a b c d | e  .  .  .           tokens [B] -> logits [B, V]
[x y]        | . . x y | z  .  .  .           every row ends at the same slot
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from danlu.models.decoder import Decoder
from danlu.nn.cache import KVCache

# Prompt tokens (rows x columns) in one forward pass: bounds the memory of activations.
PREFILL_TOKENS = 2048


class StaticBatch:
    """Some sequences that start together; rows can leave but not join.

    `prefill` returns the logits after each prompt; `decode` those after one more token in each row;
    `select` keeps rows. The cache belongs to the batch and is freed with it.

    Args:
        decoder: the model; it is called through `model(tokens, positions, attn)` and
            `logits(hidden)`.
        prompts: token ids of each row, at least one token each.
        max_new_tokens: most tokens that any row will get.
        prefill_tokens: prompt tokens in one forward pass; longer prompts are cut into chunks.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        device = decoder.device
        self._decoder = decoder
        self._prefill_tokens = prefill_tokens
        self._tokens_BT, real_BT = _left_padded(prompts, device)
        with torch.inference_mode():
            in_front = decoder.in_front()
        taken = self._slots_in_front = in_front.num_tokens
        slots = taken + self._tokens_BT.shape[1] + max_new_tokens
        self._real_BS = None if real_BT is None else _with_room(real_BT, taken, slots)
        self._rule = in_front.rule(decoder.config.sequence_rule)
        self._numbering = self._rule.number(self._tokens_BT, real_BT)
        self._cache = KVCache(
            decoder.kv_shapes(), len(prompts), slots, decoder.dtype, device, decoder.keeping
        )
        in_front.fill(self._cache)

    @torch.inference_mode()
    def prefill(self) -> Tensor:
        """Run all prompts; return the logits [B, V] of the token after each."""
        positions_BT, prefix_end_B = self._numbering.positions_BT, self._numbering.prefix_end_B
        for columns in self._chunks():
            hidden_BTD = self._forward(
                self._tokens_BT[:, columns], positions_BT[..., columns], prefix_end_B
            )
        self._next_positions_B1 = self._rule.following(positions_BT[..., -1:])
        return self._decoder.logits(hidden_BTD[:, -1])

    def _chunks(self) -> Iterator[slice]:
        """Yield the columns of each pass; a prefix that sees itself is in the first as a whole."""
        num_rows, length = self._tokens_BT.shape
        step = max(1, self._prefill_tokens // num_rows)
        prefix_end_B = self._numbering.prefix_end_B
        first = step if prefix_end_B is None else max(step, int(prefix_end_B.max()))
        yield slice(0, first)
        for start in range(first, length, step):
            yield slice(start, start + step)

    @torch.inference_mode()
    def decode(self, tokens_B: Tensor) -> Tensor:
        """Add one token to each row; return the logits [B, V] of the next.

        Raises:
            CapacityError: after more than `max_new_tokens` tokens.
        """
        hidden_B1D = self._forward(tokens_B[:, None], self._next_positions_B1)
        self._next_positions_B1 = self._rule.following(self._next_positions_B1)
        return self._decoder.logits(hidden_B1D[:, -1])

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, after prefill; a row named twice is copied."""
        index = torch.tensor(rows, device=self._next_positions_B1.device)
        self._cache.select(index)
        self._next_positions_B1 = self._next_positions_B1[index]
        if self._real_BS is not None:
            real_BS = self._real_BS[index]
            self._real_BS = None if bool(real_BS.all()) else real_BS

    def _forward(
        self, tokens_BT: Tensor, positions_BT: Tensor, prefix_end_B: Tensor | None = None
    ) -> Tensor:
        end = self._cache.length + tokens_BT.shape[1]
        mask_BS = None if self._real_BS is None else self._real_BS[:, :end]
        if prefix_end_B is not None:
            prefix_end_B = prefix_end_B + self._slots_in_front
        hidden_BTD: Tensor = self._decoder.model(
            tokens_BT, positions_BT, self._cache.context(mask_BS, positions_BT, prefix_end_B)
        )
        return hidden_BTD


def _left_padded(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return tokens [B, T] and which are real (None: all); padding repeats id 0."""
    length = max(map(len, prompts))
    padding = [length - len(prompt) for prompt in prompts]
    rows = [[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)]
    tokens_BT = torch.tensor(rows, dtype=torch.long, device=device)
    if not any(padding):
        return tokens_BT, None
    first_B1 = torch.tensor(padding, device=device)[:, None]
    return tokens_BT, torch.arange(length, device=device) >= first_B1


def _with_room(real_BT: Tensor, in_front: int, slots: int) -> Tensor:
    """Extend the mask of the prompts to all slots: what it lacks is never padding."""
    behind = slots - in_front - real_BT.shape[1]
    return torch.nn.functional.pad(real_BT, (in_front, behind), value=True)
