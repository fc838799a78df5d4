"""generation_config.json and the control tokens of config.json, as transformers spells them."""

from collections.abc import Mapping
from typing import Any

from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer

# What transformers understands of the generation_config.json that publishers wrote.
SAMPLING_KEYS = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "max_length",
    "max_new_tokens",
)
TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


def token_ids(decoder: Decoder, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the ids of bos, eos and pad: of config.json, else of the tokenizer, else null.

    They are always said, as an architecture's defaults are those of another model.
    """
    published = decoder.published
    assert published is not None
    known: dict[str, Any] = {}
    if tokenizer is not None:
        ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
        known = dict(zip(TOKEN_KEYS, ids, strict=True))
    return {key: _first(published.config.get(key), known.get(key)) for key in TOKEN_KEYS}


def generation_config(decoder: Decoder, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return a generation_config.json: the published sampling, and every id that ends an answer."""
    published = decoder.published
    assert published is not None
    given: Mapping[str, Any] = published.generation_config or {}
    sampling = {key: given[key] for key in SAMPLING_KEYS if given.get(key) is not None}
    tokens = token_ids(decoder, tokenizer)
    tokens |= {key: given[key] for key in TOKEN_KEYS if given.get(key) is not None}
    stops = [*_listed(tokens["eos_token_id"]), *(tokenizer.stop_ids() if tokenizer else [])]
    stops = list(dict.fromkeys(stops))
    tokens["eos_token_id"] = stops[0] if len(stops) == 1 else stops or None
    return {**{key: value for key, value in tokens.items() if value is not None}, **sampling}


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _listed(value: Any) -> list[int]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
