"""How many bytes a model takes, and how many a budget leaves for its layers."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from danlu.calibration.fitting.candidates import header_bytes
from danlu.config.quantize.kv_cache import KvCacheScheme
from danlu.config.quantize.run import QuantizeRun
from danlu.errors import QuantizationError
from danlu.files import size_text
from danlu.loading.blocks import StoredModel
from danlu.models.decoder import Decoder
from danlu.nn.cache_rounding import FixedRounding, TokenRounding
from danlu.nn.stores import PLAIN, Keeping


@dataclass(frozen=True)
class Budget:
    """What must fit, in bytes.

    Attributes:
        total: of weights and cache together.
        cache: keys and values of all tokens that were asked for.
        fixed: weights that are not chosen: embedding, norms, what a run leaves alone.
        cache_tokens: those tokens.
        eight_bit_cache: what the cache would take in 8 bits; None: it is in 8 bits.
    """

    total: int
    cache: int
    fixed: int
    cache_tokens: int
    eight_bit_cache: int | None

    @property
    def room(self) -> int:
        """What is left for the layers to choose for."""
        return self.total - self.cache - self.fixed

    def refuse_needless(self, dense: int) -> None:
        """Check that layers do not fit as they are, in `dense` bytes.

        Raises:
            QuantizationError: with the size that the model has.
        """
        if dense <= self.room:
            size = self.fixed + dense + self.cache
            raise QuantizationError(
                f"The model fits into {size_text(self.total)} as it is: weights and cache take "
                f"{size_text(size)}. Nothing was rounded. Expected a budget below that, or a "
                "--method instead of a budget."
            )

    def refuse_larger(self, smallest: int) -> None:
        """Check that layers which take `smallest` bytes at least fit.

        Raises:
            QuantizationError: with the smallest size that there is, and what would help.
        """
        if smallest <= self.room:
            return
        needed = self.fixed + smallest + self.cache
        raise QuantizationError(
            f"The model does not fit into {size_text(self.total)}: the smallest that it gets is "
            f"{size_text(needed)}, of which {size_text(smallest)} are layers in their fewest bits, "
            f"{size_text(self.fixed)} weights that stay as they are (embedding, norms and what "
            f"the run leaves alone), and {size_text(self.cache)} keys and values of "
            f"{self.cache_tokens} tokens. {' '.join(self._help(needed))}"
        )

    def _help(self, needed: int) -> list[str]:
        """Return what would help, the largest gain first."""
        gains = [(self.cache, f"fewer tokens of cache save up to {size_text(self.cache)}")]
        if self.eight_bit_cache is not None:
            saved = self.cache - self.eight_bit_cache
            gains.append((saved, f"keys and values in 8 bits save {size_text(saved)}"))
        told = [text for gain, text in sorted(gains, reverse=True) if gain > 0]
        saving = [f"What would help: {'; '.join(told)}."] if told else []
        return [*saving, f"Expected a budget of {size_text(needed)} at least, or a smaller model."]


def budget_of(model: StoredModel, run: QuantizeRun, free: Collection[str], fixed: int) -> Budget:
    """Return the budget of a run.

    Args:
        model: the checkpoint.
        run: with `fit`.
        free: layers that are chosen for; their weights do not count.
        fixed: bytes of layers for which the run itself says how they are rounded.
    """
    assert run.fit is not None
    tokens = run.fit.cache_tokens
    rounded = _keeping(run.kv_cache or KvCacheScheme())
    plain = cache_bytes(model.decoder, tokens, PLAIN, model.dtype)
    eight = cache_bytes(model.decoder, tokens, rounded, model.dtype)
    return Budget(
        total=run.fit.bytes,
        cache=plain if run.kv_cache is None else eight,
        fixed=fixed + other_bytes(model, free),
        cache_tokens=tokens,
        eight_bit_cache=eight if run.kv_cache is None else None,
    )


def other_bytes(model: StoredModel, layers: Collection[str]) -> int:
    """Return the bytes of all tensors but the weights of some linear layers, as they are stored."""
    published = model.decoder.published
    assert published is not None
    total = 0
    for name, dtype in published.dtypes.items():
        entry = model.layout.entries[name]
        if not all(ours.removesuffix(".weight") in layers for ours in entry.ours):
            size = entry.shape.numel() * dtype.itemsize
            total += size + header_bytes(name, entry.shape, size)
    return total


def cache_bytes(decoder: Decoder, tokens: int, keeping: Keeping, dtype: torch.dtype) -> int:
    """Return the bytes of keys and values of `tokens` tokens, in all layers.

    Args:
        decoder: on any device.
        tokens: of all texts together.
        keeping: how they are kept.
        dtype: of numbers that are not rounded.
    """
    return tokens * sum(keeping.token_bytes(shape, dtype) for shape in decoder.kv_shapes())


def _keeping(scheme: KvCacheScheme) -> Keeping:
    """Return how a scheme keeps keys and values; its scales, if it has any, are not known yet."""
    return TokenRounding() if scheme.scales == "token" else FixedRounding((), ())
