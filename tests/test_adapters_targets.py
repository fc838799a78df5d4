"""Which layers a config means, what is refused, and what training sees of an adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import sequences, tiny_decoder
from pydantic import ValidationError

from danlu.adapters.handling import adapter_names
from danlu.adapters.lora.low_rank import LoRALinear
from danlu.adapters.targets import choose_targets
from danlu.adapters.token_ids import control_ids, with_token_ids
from danlu.config.adapter import Ia3Config, LoraConfig, TokenRowsConfig
from danlu.errors import AdapterError
from danlu.loading import attach_adapter, load_tokenizer, lr_scales
from danlu.loading.layout import published_layout
from danlu.models.decoder import Decoder

BLOCK = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]


def chosen(decoder: Decoder, **options: Any) -> list[tuple[str, ...]]:
    entries = published_layout(decoder).entries
    return choose_targets(decoder, LoraConfig(**options), entries)


def short(groups: list[tuple[str, ...]]) -> set[str]:
    return {name.removeprefix("model.layers.") for group in groups for name in group}


def attached(decoder: Decoder, config: Any) -> list[str]:
    return attach_adapter(decoder, config, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {f"{i}.{n}" for i in (0, 1) for n in BLOCK}),
        ({"targets": ["q_proj"], "layers": [1]}, {"1.self_attn.q_proj"}),
        ({"targets": ["row"]}, {f"{i}.{n}" for i in (0, 1) for n in (BLOCK[3], BLOCK[6])}),
        ({"targets": ["attention"], "layers": [0]}, {f"0.{n}" for n in BLOCK[:4]}),
        (
            {"targets": ["mlp"], "exclude": ["down_proj"], "layers": [0]},
            {"0." + BLOCK[4], "0." + BLOCK[5]},
        ),
        ({"targets": ["model.layers.1.mlp.up_proj", "lm_head"]}, {"1.mlp.up_proj", "lm_head"}),
        ({"targets": r".*\.0\..*(q|v)_proj"}, {"0.self_attn.q_proj", "0.self_attn.v_proj"}),
        ({"exclude": r".*\.(0|1)\.mlp\..*", "layers": [1]}, {f"1.{n}" for n in BLOCK[:4]}),
        ({"targets": ["embed_tokens"]}, {"model.embed_tokens"}),
    ],
)
def test_layers_are_told_in_many_ways(options: dict[str, Any], wanted: set[str]) -> None:
    found = chosen(tiny_decoder("llama"), **options)
    assert short(found) == wanted
    assert all(len(group) == 1 for group in found)


@pytest.mark.parametrize(
    ("family", "word", "sizes"),
    [
        ("qwen", "c_attn", 3),
        ("qwen", "w1", 1),
        ("gpt2", "c_proj", 1),
        ("baichuan_7b", "W_pack", 3),
        ("baichuan2_13b", "W_pack", 3),
        ("bloom", "query_key_value", 3),
        ("chatglm", "query_key_value", 3),
        ("chatglm2", "dense_h_to_4h", 2),
        ("glm4", "gate_up_proj", 2),
    ],
)
def test_published_names_mean_published_layers(family: str, word: str, sizes: int) -> None:
    decoder = tiny_decoder(family)
    found = chosen(decoder, targets=[word])
    assert {len(group) for group in found} == {sizes}
    attached(decoder, LoraConfig(targets=[word], lora_rank=2))
    layers = dict(decoder.linears())
    for group in found:
        updates = [layers[name] for name in group]
        assert all(isinstance(update, LoRALinear) for update in updates)
        assert len({id(update.lora_A) for update in updates}) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            LoraConfig(targets=["q_proj", "c_attn", "W_pack", "q_porj"]),
            ["'c_attn'", "'W_pack'", "'q_porj' Did you mean 'q_proj'?", "attention, mlp"],
        ),
        (LoraConfig(targets="q_proj"), ["one regular expression", "[q_proj]"]),
        (LoraConfig(targets="(q_proj"), ["'(q_proj' is no regular expression"]),
        (LoraConfig(targets=["q_proj"], layers=[0, 7]), ["layers [7] hold no target"]),
        (LoraConfig(targets=["q_proj"], exclude=["q_proj"]), ["leave nothing to adapt"]),
        (LoraConfig(exclude=["k_porj"]), ["exclude", "Did you mean 'k_proj'"]),
        (
            LoraConfig(rank_pattern={"wq": 4}, alpha_pattern={"up_porj": 2}),
            ["rank_pattern 'wq'", "alpha_pattern 'up_porj' Did you mean 'up_proj'"],
        ),
        (LoraConfig(whole=["embed_token"]), ["'embed_token' Did you mean 'embed_tokens'"]),
        (LoraConfig(targets=["lm_head"], whole=["lm_head"]), ["whole and by an update"]),
        (LoraConfig(exclude="k_porj"), ["leaves out nothing", "Did you mean 'k_proj'"]),
        (LoraConfig(lora_rank=900), ["lora_rank 900 is more than a layer has"]),
        (LoraConfig(init="pissa", lora_rank=900), ["900 singular values"]),
        (LoraConfig(init="pissa", targets=["embed_tokens"]), ["embed_tokens has none"]),
        (LoraConfig(token_rows=["<a>"]), ["needs a tokenizer"]),
        (TokenRowsConfig(token_rows=[1, 999]), ["[999]", "rows 0 to 255"]),
        (TokenRowsConfig(token_rows=[]), ["at least one"]),
        (TokenRowsConfig(), ["'control' needs a tokenizer"]),
        (Ia3Config(targets=["embed_tokens"]), ["ia3 scales linear layers"]),
    ],
)
def test_what_does_not_fit_is_one_error(config: Any, said: list[str]) -> None:
    decoder = tiny_decoder("llama")
    with pytest.raises(AdapterError) as caught:
        attached(decoder, config)
    for text in said:
        assert text in str(caught.value)
    assert not adapter_names(decoder)


@pytest.mark.parametrize(
    "options",
    [
        {"dora": True, "init": "pissa"},
        {"whole": ["lm_head"], "token_rows": [1]},
        {"rank_pattern": {"q_proj": 0}},
        {"learning_rate_ratio": 0},
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoraConfig(**options)


def test_only_b_learns_faster() -> None:
    decoder = tiny_decoder("llama")
    attached(decoder, LoraConfig(targets=["q_proj", "embed_tokens"], learning_rate_ratio=16.0))
    names = [n for n, p in decoder.named_parameters() if p.requires_grad]
    assert lr_scales(decoder) == {name: 16.0 for name in names if name.endswith("lora_B")}
    assert len(lr_scales(decoder)) == 3
    plain = tiny_decoder("llama")
    attached(plain, LoraConfig())
    assert lr_scales(plain) == {}


@pytest.mark.parametrize("tied", [False, True])
def test_token_rows_take_the_memory_of_their_rows(tied: bool) -> None:
    decoder = tiny_decoder("bloom" if tied else "llama")
    attached(decoder, TokenRowsConfig(token_rows=[9, 4, 9]))
    hidden = decoder.config.hidden_size
    trained = [p for p in decoder.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == (1 if tied else 2) * 2 * hidden
    decoder(sequences(decoder, 1, 6)).sum().backward()
    assert {p.grad is None for p in decoder.parameters() if not p.requires_grad} == {True}


def test_dropout_acts_in_training_only() -> None:
    decoder = tiny_decoder("llama")
    ids = sequences(decoder, 1, 6)
    attached(decoder, LoraConfig(lora_dropout=0.5))
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(generator=torch.Generator().manual_seed(1))
        assert torch.equal(decoder(ids), decoder(ids))
        decoder.train()
        assert not torch.equal(decoder(ids), decoder(ids))


def test_masters_are_float32_on_a_bfloat16_base() -> None:
    decoder = tiny_decoder("llama").to(torch.bfloat16)
    attached(decoder, LoraConfig(targets=["q_proj", "embed_tokens"], dora=True, token_rows=[3]))
    trained = [p for p in decoder.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    assert decoder(sequences(decoder, 1, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("folder", "chat_format", "written"),
    [
        ("qwen2", "chatml", {"<|im_start|>", "<|im_end|>"}),
        ("baichuan2", "baichuan2-chat", {"<reserved_106>", "<reserved_107>"}),
    ],
)
def test_control_tokens_are_those_the_chat_format_writes(
    folder: str, chat_format: str, written: set[str], shared: Path
) -> None:
    tokenizer = load_tokenizer(shared / "data" / "tokenizers" / folder)
    tokenizer = tokenizer.with_chat_format(chat_format)
    ids = {tokenizer.control_id(text) for text in written}
    assert ids <= set(control_ids(tokenizer))
    assert len(control_ids(tokenizer)) <= 8
    assert with_token_ids(TokenRowsConfig(), tokenizer).token_rows == control_ids(tokenizer)
    named = with_token_ids(LoraConfig(token_rows=[*sorted(written), 5]), tokenizer)
    assert named.token_rows == sorted([5, *ids])
    with pytest.raises(AdapterError, match="<no token>"):
        with_token_ids(LoraConfig(token_rows=["<no token>"]), tokenizer)
