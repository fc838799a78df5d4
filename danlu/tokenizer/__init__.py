"""Tokenizers, control tokens, chat formats and incremental decoding: the one token truth.

Training, evaluation and serving all encode through `Tokenizer`. A new kind of tokenizer file is one
module in `kinds/`, a new chat format one module in `chat/formats/`.
"""

from danlu.tokenizer.base import Tokenizer
from danlu.tokenizer.chat.chat_format import Rendered
from danlu.tokenizer.chat.truncation import FittedHistory, fit_history
from danlu.tokenizer.compression import CompressionRow, compare_tokenizers
from danlu.tokenizer.incremental import IncrementalDecoder
from danlu.tokenizer.loading import load_tokenizer
from danlu.tokenizer.training import train_bpe

__all__ = [
    "CompressionRow",
    "FittedHistory",
    "IncrementalDecoder",
    "Rendered",
    "Tokenizer",
    "compare_tokenizers",
    "fit_history",
    "load_tokenizer",
    "train_bpe",
]
