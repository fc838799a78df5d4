"""Bytes that a model needs: to load, to train, and for each token of its cache.

What is counted is what Danlu's own loop and cache hold (`danlu.train.precision`, AdamW,
`danlu.nn.cache`). Activations, which grow with the batch, and the runtime come on top.
"""

from dataclasses import dataclass

import torch

from danlu.config.adapter import LoraConfig
from danlu.files import size_text
from danlu.models.decoder import Decoder
from danlu.nn.cache_rounding import TokenRounding
from danlu.nn.stores import PLAIN, Keeping

BF16, FP32 = 2, 4
ADAM = 2 * FP32  # two moments
GRADIENT = FP32  # added up in float32
MASTER = FP32  # of weights that compute in bf16


@dataclass(frozen=True)
class MemoryFacts:
    """Bytes of a model's weights, of training it, and of its cache.

    Attributes:
        num_parameters: a tied head counts once.
        stored_bytes: the weights as they are stored.
        bf16_bytes, fp32_bytes: the weights in these dtypes.
        full_bf16_bytes, full_fp32_bytes: training all weights.
        lora_bf16_bytes, lora_fp32_bytes: training LoRA on all linear layers but the head.
        lora_rank: of that LoRA.
        lora_parameters: of that LoRA.
        cache_token_bytes: keys and values of one token, in bf16.
        cache_int8_token_bytes: likewise in 8 bits, with a scale for each token and head.
        max_seq_len: tokens of a full context.
    """

    num_parameters: int
    stored_bytes: int
    bf16_bytes: int
    fp32_bytes: int
    full_bf16_bytes: int
    full_fp32_bytes: int
    lora_bf16_bytes: int
    lora_fp32_bytes: int
    lora_rank: int
    lora_parameters: int
    cache_token_bytes: int
    cache_int8_token_bytes: int
    max_seq_len: int

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print."""
        full = self.cache_token_bytes * self.max_seq_len
        less = self.cache_int8_token_bytes * self.max_seq_len
        stored = f"{size_text(self.stored_bytes)} as stored, " if self.stored_bytes else ""
        dense = f"{size_text(self.bf16_bytes)} in bf16, {size_text(self.fp32_bytes)} in fp32"
        return [
            ("to load", stored + dense),
            (
                "to train",
                f"whole: {size_text(self.full_bf16_bytes)} in bf16, "
                f"{size_text(self.full_fp32_bytes)} in fp32 (weights, float32 masters and "
                "gradients, two moments of AdamW)",
            ),
            (
                "",
                f"LoRA, rank {self.lora_rank} on all linear layers: "
                f"{size_text(self.lora_bf16_bytes)} on bf16, {size_text(self.lora_fp32_bytes)} on "
                f"fp32 ({self.lora_parameters:,} trained parameters)",
            ),
            ("", "activations come on top; they grow with the tokens of a micro-batch"),
            (
                "cache",
                f"{size_text(self.cache_token_bytes)} a token, {size_text(full)} for a full "
                f"context of {self.max_seq_len:,} (bf16; fp32 takes twice that)",
            ),
            (
                "",
                f"{size_text(self.cache_int8_token_bytes)} a token, {size_text(less)} for a full "
                "context with --kv-cache int8",
            ),
        ]


def estimate(decoder: Decoder, stored_bytes: int) -> MemoryFacts:
    """Return the bytes that a decoder needs; it may be on the meta device."""
    count = sum(parameter.numel() for parameter in decoder.parameters())
    rank = LoraConfig().lora_rank
    lora = sum(
        rank * (linear.in_features + linear.out_features)
        for name, linear in decoder.linears()
        if name != "lm_head"
    )
    trained_lora = lora * (MASTER + GRADIENT + ADAM)
    return MemoryFacts(
        num_parameters=count,
        stored_bytes=stored_bytes,
        bf16_bytes=count * BF16,
        fp32_bytes=count * FP32,
        full_bf16_bytes=count * (BF16 + MASTER + GRADIENT + ADAM),
        full_fp32_bytes=count * (FP32 + GRADIENT + ADAM),
        lora_bf16_bytes=count * BF16 + trained_lora,
        lora_fp32_bytes=count * FP32 + trained_lora,
        lora_rank=rank,
        lora_parameters=lora,
        cache_token_bytes=_cache_token_bytes(decoder, PLAIN),
        cache_int8_token_bytes=_cache_token_bytes(decoder, TokenRounding()),
        max_seq_len=decoder.config.max_seq_len,
    )


def _cache_token_bytes(decoder: Decoder, keeping: Keeping) -> int:
    """Return the bytes of a token's keys and values in all layers, where they come in bf16."""
    return sum(keeping.token_bytes(shape, torch.bfloat16) for shape in decoder.kv_shapes())
