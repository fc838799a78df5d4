"""What is trained without an adapter: by layer, by our names, by published names."""

from pathlib import Path

import pytest
from train_parts import tiny_decoder

from danlu.config.train import FreezeConfig
from danlu.errors import ConfigError
from danlu.loading import load_decoder
from danlu.models.decoder import Decoder
from danlu.train.freezing import freeze

HERE = Path(__file__).parent
ALL = [name for name, _ in tiny_decoder().named_parameters()]


def trained(decoder: Decoder) -> list[str]:
    return [name for name, p in decoder.named_parameters() if p.requires_grad]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (FreezeConfig(top_layers=1), [n for n in ALL if n.startswith("model.layers.1.")]),
        (FreezeConfig(names=["q_proj"]), [n for n in ALL if ".q_proj." in n]),
        (FreezeConfig(names=["layers.*.mlp"]), [n for n in ALL if ".mlp." in n]),
        (FreezeConfig(names=["model.norm.weight"]), ["model.norm.weight"]),
        (
            FreezeConfig(top_layers=1, names=["model.norm"], frozen=["mlp", "*layernorm"]),
            [n for n in ALL if n.startswith("model.layers.1.self") or n == "model.norm.weight"],
        ),
        (FreezeConfig(frozen=["embed_tokens"]), [n for n in ALL if "embed_tokens" not in n]),
    ],
    ids=["layers", "part", "star", "whole", "together", "all-but"],
)
def test_parameters_are_chosen(config: FreezeConfig, expected: list[str]) -> None:
    decoder = tiny_decoder()
    assert freeze(decoder, config) == expected
    assert trained(decoder) == expected != []


def test_a_name_of_the_checkpoint_chooses_all_that_is_in_it() -> None:
    decoder = load_decoder(HERE / "golden-small" / "bloom")
    found = freeze(decoder, FreezeConfig(names=["h.0.self_attention.query_key_value"]))
    assert found == [
        f"model.layers.0.self_attn.{part}_proj.{kind}"
        for part in "qkv"
        for kind in ("weight", "bias")
    ]


def test_a_tied_head_is_its_embedding() -> None:
    decoder = tiny_decoder()
    assert freeze(decoder, FreezeConfig(names=["lm_head"])) == ["model.embed_tokens.weight"]


def test_everything_wrong_is_told_at_once_with_the_closest_name() -> None:
    config = FreezeConfig(top_layers=9, names=["q_porj", "model.norm"], frozen=["nothing_like_it"])
    decoder = tiny_decoder()
    with pytest.raises(ConfigError) as caught:
        freeze(decoder, config)
    message = str(caught.value)
    assert "top_layers is 9, but the model has 2 layers" in message
    assert "names: no parameter matches 'q_porj'. Did you mean 'q_proj'?" in message
    assert "frozen: no parameter matches 'nothing_like_it'." in message
    assert trained(decoder) == ALL


def test_nothing_left_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves nothing to train of"):
        freeze(tiny_decoder(), FreezeConfig(names=["mlp"], frozen=["mlp"]))


def test_an_empty_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="give top_layers, names or frozen"):
        FreezeConfig()
