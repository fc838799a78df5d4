"""Danlu: the whole life of an open language model on one's own machines.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.engine.llm import LLM
    from danlu.engine.sampling import SamplingParams
    from danlu.loading import load_decoder, load_tokenizer

__version__ = "0.1.0"
__all__ = ["LLM", "SamplingParams", "__version__", "load_decoder", "load_tokenizer"]

_HOMES = {
    "LLM": "danlu.engine.llm",
    "SamplingParams": "danlu.engine.sampling",
    "load_decoder": "danlu.loading",
    "load_tokenizer": "danlu.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'danlu' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
