"""Small real models and tokenizers for the tests of engine and eval."""

from collections.abc import Sequence
from functools import cache

import torch

from danlu.config.model import ModelShape
from danlu.engine.llm import LLM
from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import GenerationSequence, Request
from danlu.loading import new_decoder
from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer, train_bpe

SHAPE = ModelShape(
    hidden_size=64,
    intermediate_size=112,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    max_seq_len=96,
    tie_word_embeddings=False,
)
TEXTS = ("安娜有三个红苹果。她给了本一个。", "Anna has three red apples. She gave Ben one.")


@cache
def tiny_tokenizer() -> Tokenizer:
    """Byte-level: every text has tokens, most Chinese characters two or three."""
    return train_bpe(TEXTS, vocab_size=300)


@cache
def tiny_decoder(seed: int = 0, vocab_size: int = 300) -> Decoder:
    """A random model whose choices are far enough apart to survive another order of sums."""
    decoder = new_decoder(SHAPE, vocab_size)
    decoder.init_weights(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
    return decoder.eval()


@cache
def tiny_llm() -> LLM:
    return LLM.from_parts(tiny_decoder(), tiny_tokenizer())


def sequence(params: SamplingParams, seed: int = 0, prompt: Sequence[int] = (1, 2, 3)):
    """An answer about to begin."""
    return GenerationSequence(Request(prompt, params, 50, frozenset(), seed))
