"""The published tensors of a decoder, whatever its layers have become since."""

import torch
from torch import Size

from danlu.loading.building import family_named
from danlu.models.decoder import Decoder
from danlu.models.published import Published
from danlu.weights.rules import Layout

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


def published_layout(decoder: Decoder) -> Layout:
    """Return the layout of the plain model that `decoder` was built from, a tied head included."""
    assert decoder.published is not None
    with torch.device("meta"):
        plain = Decoder(decoder.config)
    shapes = {name: parameter.shape for name, parameter in plain.named_parameters()}
    shapes[HEAD] = Size((decoder.config.vocab_size, decoder.config.embedding_width))
    rules = family_named(decoder.published.family).rules(decoder.config)
    return Layout(rules, shapes, decoder.config.num_layers)


def stored_name(name: str, published: Published) -> str:
    """Return the name in the files of a published tensor; some leave out the family's prefix."""
    prefix = family_named(published.family).optional_prefix
    return name if published.has_prefix or not prefix else name.removeprefix(prefix)
