"""Adapters put on a decoder, and written beside it, in the names of its published layout."""

from pathlib import Path

import torch

from danlu.adapters import handling
from danlu.adapters.methods.prompt import with_tokens
from danlu.config.base import Config
from danlu.loading.layout import published_layout
from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer


def attach_adapter(
    decoder: Decoder,
    config: Config,
    generator: torch.Generator,
    name: str = handling.DEFAULT,
    tokenizer: Tokenizer | None = None,
) -> list[str]:
    """Put a fresh adapter on `decoder`, freeze everything else, and return what it adapts.

    Args:
        decoder: the base, with or without other adapters.
        config: of any method; layers may be named as here or as in the published checkpoint.
        generator: draws its numbers.
        name: to tell it from other adapters.
        tokenizer: makes tokens of a text that the config begins with.

    Raises:
        AdapterError: if the config does not fit the base.
    """
    if tokenizer is not None:
        config = with_tokens(config, tokenizer.encode)
    entries = published_layout(decoder).entries
    return handling.attach_adapter(decoder, config, generator, name, entries)


def load_adapter(decoder: Decoder, folder: str | Path, name: str = handling.DEFAULT) -> list[str]:
    """Put the adapter in `folder`, of any method, on `decoder`; return what it adapts.

    Raises:
        AdapterError: with everything that does not fit the base.
    """
    return handling.read_adapter(decoder, published_layout(decoder).entries, Path(folder), name)


def save_adapter(
    decoder: Decoder, folder: str | Path, base: str | Path, name: str = handling.DEFAULT
) -> None:
    """Write an adapter of `decoder` into `folder` in PEFT's format.

    Args:
        decoder: with the adapter on.
        folder: made if needed.
        base: path or id of the model that the adapter belongs to.
        name: of the adapter.

    Raises:
        AdapterError: if there is no such adapter.
    """
    entries = published_layout(decoder).entries
    handling.write_adapter(decoder, entries, Path(folder), str(base), name)
