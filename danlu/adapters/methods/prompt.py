"""Prompt tuning (arXiv:2104.08691): trained embeddings in front of every text.

The model runs them once; their keys and values then stand in front of every text, which is the same
as if they stood in each. In families whose prompt sees itself they see one another, not the text.
PEFT's prompt tuning is read and written; its P-tuning (arXiv:2103.10385) is read, as its files hold
the embeddings that its encoder made. Fresh embeddings are those of a text, or of drawn tokens.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from danlu.adapters.front.prefixing import (
    TENSOR,
    Prefixing,
    check_keys,
    check_room,
    content,
    differences,
    miscounted,
    read_table,
    refuse,
)
from danlu.adapters.method import AdapterContent, AdapterSource
from danlu.config.adapter import PromptConfig
from danlu.config.base import Config
from danlu.errors import AdapterError
from danlu.nn.prefix import InFront, KeyValueRecorder, Prefix, Prefixable
from danlu.weights.rules import Entry

_SIZES = ("num_layers", "num_attention_heads", "token_dim", "num_virtual_tokens")
_TRAINED_BY = (
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
    "encoder_reparameterization_type",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_dropout",
)


class PromptPrefix(Prefix):
    """Embeddings [P, D] in front of every text, which stands behind them."""

    def __init__(self, embeddings_PD: Tensor) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(embeddings_PD)
        self.num_tokens = self.first_position = len(embeddings_PD)

    def in_front(self, decoder: Prefixable) -> InFront:
        """Return what the decoder keeps of them."""
        recorder = KeyValueRecorder(self.num_tokens, decoder.device)
        decoder.run_virtual(self.embeddings.to(decoder.dtype), recorder)
        return InFront(recorder.keys_values(), self.first_position)


class PromptTuning:
    """Makes, reads and writes trained prompts."""

    name = "prompt"
    config = PromptConfig
    peft_types = ("PROMPT_TUNING", "P_TUNING")

    def attach(
        self,
        model: Prefixable,
        config: PromptConfig,
        generator: torch.Generator,
        entries: Mapping[str, Entry],
    ) -> Prefixing:
        """Return fresh embeddings."""
        check_room(model, config.num_tokens, config.num_tokens)
        tokens_P = _first_tokens(model, config, generator)
        with torch.no_grad():
            embeddings_PD = model.token_embeddings(tokens_P.to(model.device)).float().clone()
        return Prefixing(self.name, config, PromptPrefix(embeddings_PD))

    def read(
        self, model: Prefixable, source: AdapterSource, entries: Mapping[str, Entry]
    ) -> Prefixing:
        """Return the embeddings in a folder."""
        problems = check_keys(source, _SIZES, _TRAINED_BY)
        table_PD, damage = read_table(source)
        problems += damage
        if table_PD is not None:
            problems += miscounted(source, table_PD)
            problems += differences(source.config, {"num_layers": len(model.kv_shapes())})
            width = model.token_embeddings(torch.zeros(1, dtype=torch.long)).shape[-1]
            if table_PD.shape[1] != width:
                problems.append(
                    f"{TENSOR} has {table_PD.shape[1]} numbers for each token; "
                    f"embeddings of the base have {width}"
                )
        refuse(source, problems)
        assert table_PD is not None
        check_room(model, len(table_PD), len(table_PD))
        config = PromptConfig(num_tokens=len(table_PD))
        return Prefixing(self.name, config, PromptPrefix(table_PD))

    def write(
        self, model: Prefixable, attached: Prefixing, entries: Mapping[str, Entry]
    ) -> AdapterContent:
        """Return what a folder with the embeddings holds."""
        assert isinstance(attached.prefix, PromptPrefix)
        embeddings_PD = attached.prefix.embeddings
        shapes = model.kv_shapes()
        keys = {
            "num_layers": len(shapes),
            "num_attention_heads": shapes[0].num_kv_heads,
            "token_dim": embeddings_PD.shape[1],
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "tokenizer_name_or_path": None,
            "tokenizer_kwargs": None,
        }
        return content("PROMPT_TUNING", embeddings_PD, keys)


METHOD = PromptTuning()


def with_tokens(config: Config, encode: Callable[[str], list[int]]) -> Config:
    """Return a config that knows the tokens of its `init_text`; other configs as they are."""
    if not isinstance(config, PromptConfig) or config.init_text is None or config.init_ids:
        return config
    return config.model_copy(update={"init_ids": encode(config.init_text)})


def _first_tokens(model: Prefixable, config: PromptConfig, generator: torch.Generator) -> Tensor:
    """Return the tokens [P] whose embeddings a prompt begins with; a text is cut or repeated."""
    if config.init_text is None and not config.init_ids:
        return torch.randint(model.vocab_size, (config.num_tokens,), generator=generator)
    if not config.init_ids:
        raise AdapterError(
            f"The prompt is to begin as {config.init_text!r}, whose tokens nobody gave. Expected "
            "init_ids, or a tokenizer that makes at least one token of it."
        )
    repeats = -(-config.num_tokens // len(config.init_ids))
    tokens = (config.init_ids * repeats)[: config.num_tokens]
    outside = sorted({token for token in tokens if not 0 <= token < model.vocab_size})
    if outside:
        raise AdapterError(
            f"init_ids {outside[:5]} are outside the vocabulary; "
            f"expected 0 to {model.vocab_size - 1}."
        )
    return torch.tensor(tokens)
