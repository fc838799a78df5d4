"""Reward models on the disk: read back, opened by stock transformers, refused where damaged."""

from pathlib import Path

import pytest
import torch
from checkpoints import golden, spoil_weights, tiny_checkpoint, tiny_decoder

from danlu.errors import CheckpointError
from danlu.loading import load_decoder
from danlu.loading.reward import load_reward_model, put_score_head, save_reward_model
from danlu.models.decoder import Decoder

TOKENS = torch.tensor([[5, 9, 33, 2, 71, 14], [7, 7, 60, 11, 3, 90]])


def reward_decoder(family: str = "llama") -> Decoder:
    decoder = tiny_decoder(family)
    put_score_head(decoder, torch.Generator().manual_seed(0))
    return decoder


@torch.no_grad()
def scores(model: Decoder) -> torch.Tensor:
    logits_BT1: torch.Tensor = model(TOKENS)
    return logits_BT1[:, -1, 0]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "chatglm2", "opt"])
def test_a_saved_reward_model_gives_the_same_scores(family: str, tmp_path: Path) -> None:
    model = reward_decoder(family)
    save_reward_model(model, tmp_path, torch.float32)
    torch.testing.assert_close(scores(load_reward_model(tmp_path)), scores(model), rtol=0, atol=0)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gpt2", "bloom", "opt", "qwen3"])
def test_stock_transformers_gives_the_same_scores(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = reward_decoder(family)
    save_reward_model(model, tmp_path, torch.float32, {"pad_token_id": 0})
    stock, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values())
    with torch.no_grad():
        found = stock(TOKENS).logits[:, 0]
    torch.testing.assert_close(found, scores(model), rtol=1e-4, atol=1e-4)


def test_a_stock_reward_model_is_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(golden("llama"), num_labels=1, pad_token_id=0)
    stock = transformers.LlamaForSequenceClassification(config).float().eval()
    stock.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = stock(TOKENS).logits[:, 0]
    torch.testing.assert_close(scores(load_reward_model(tmp_path)), wanted, rtol=1e-4, atol=1e-4)


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    save_reward_model(reward_decoder(), tmp_path, torch.float32)
    norm = "model__norm__weight"
    spoil_weights(tmp_path, score__weight=None, extra=torch.zeros(1), **{norm: torch.zeros(3)})
    with pytest.raises(CheckpointError) as caught:
        load_reward_model(tmp_path)
    for part in ("score.weight is missing", "extra in model", "model.norm.weight is [3]"):
        assert part in str(caught.value)


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"score\.weight is missing"):
        load_reward_model(tiny_checkpoint(tmp_path / "model"))
    assert load_decoder(tmp_path / "model").lm_head.out_features > 1
