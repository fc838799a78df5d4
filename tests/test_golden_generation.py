"""Every family answers greedily as its original did, through our cache; rules of odd families."""

from pathlib import Path

import pytest
import torch
from checkpoints import FAMILIES, assert_close, expected, golden
from torch import Tensor

from danlu.engine.runner import StaticBatch
from danlu.errors import CapacityError, ShapeError
from danlu.loading import load_decoder
from danlu.models.decoder import Decoder


def both(shared: Path, name: str) -> list[Path]:
    return [golden(name), shared / "golden" / name]


def greedy(decoder: Decoder, prompts: list[list[int]], length: int) -> tuple[Tensor, Tensor]:
    """Ids [B, length] and the logits they were taken from; the prompt is fed in chunks."""
    batch = StaticBatch(decoder, prompts, length, prefill_tokens=5 * len(prompts))
    logits = [batch.prefill()]
    ids = [logits[0].argmax(-1)]
    for _ in range(length - 1):
        logits.append(batch.decode(ids[-1]))
        ids.append(logits[-1].argmax(-1))
    return torch.stack(ids, 1), torch.stack(logits, 1)


def rows(ids: Tensor, mask: Tensor) -> list[list[int]]:
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]


def prompts_of(name: str, wanted: dict[str, Tensor]) -> list[list[int]]:
    prompts: list[list[int]] = wanted["prompt_ids"].tolist()
    if name == "glm-10b":  # a batch padded in front with the end token, which no prompt begins with
        pad = wanted["prompt_ids"].max() - 1
        assert all(prompt[-1] == pad + 1 for prompt in prompts)
        return [prompt[next(i for i, t in enumerate(prompt) if t != pad) :] for prompt in prompts]
    return prompts


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_ids(name: str) -> None:
    decoder, wanted = load_decoder(golden(name)), expected(golden(name))
    ids, _ = greedy(decoder, prompts_of(name, wanted), wanted["greedy_ids"].shape[1])
    assert torch.equal(ids, wanted["greedy_ids"])


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_ids_and_logits_of_the_larger_goldens(name: str, shared: Path) -> None:
    folder = shared / "golden" / name
    decoder, wanted = load_decoder(folder), expected(folder)
    ids, logits = greedy(decoder, prompts_of(name, wanted), wanted["greedy_ids"].shape[1])
    assert torch.equal(ids, wanted["greedy_ids"])
    assert_close(logits, wanted["greedy_logits"])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "glm-10b"])
def test_greedy_batches_of_the_larger_goldens(name: str, shared: Path) -> None:
    folder = shared / "golden" / name
    decoder, wanted = load_decoder(folder), expected(folder)
    prompts = rows(
        wanted.get("batch_prompt_ids", wanted["input_ids"]),
        wanted.get("batch_prompt_attention_mask", wanted["attention_mask"]),
    )
    ids, logits = greedy(decoder, prompts, wanted["batch_greedy_ids"].shape[1])
    assert torch.equal(ids, wanted["batch_greedy_ids"])
    assert_close(logits, wanted["batch_greedy_logits"])


@torch.inference_mode()
def logits_of(decoder: Decoder, *inputs: Tensor) -> Tensor:
    return decoder(*inputs)


def test_qwen_beyond_its_trained_length(shared: Path) -> None:
    for folder in both(shared, "qwen"):
        decoder, wanted = load_decoder(folder), expected(folder)
        assert_close(logits_of(decoder, wanted["long_input_ids"]), wanted["long_logits"])
        found = logits_of(
            decoder, wanted["long_batch_input_ids"], wanted["long_batch_attention_mask"]
        )
        compared = wanted["long_batch_compare_mask"]
        assert_close(found[compared], wanted["long_batch_logits"][compared])
        for case in ("long", "cross"):
            answer = wanted[f"{case}_greedy_ids"]
            ids, _ = greedy(decoder, wanted[f"{case}_prompt_ids"].tolist(), answer.shape[1])
            assert torch.equal(ids, answer), case


@pytest.mark.parametrize("name", ["chatglm-6b", "glm-10b"])
def test_prefix_families_take_the_masks_of_their_tokenizers(name: str, shared: Path) -> None:
    for folder in both(shared, name):
        decoder, wanted = load_decoder(folder), expected(folder)
        ids, compared = wanted["input_ids"], wanted["compare_mask"]
        given = [
            (ids, wanted["attention_mask"]),
            (ids, wanted["attention_mask"], wanted["position_ids"]),
            (ids, wanted["attention_mask_4d"]),
            (ids, wanted["attention_mask_4d"], wanted["position_ids"]),
        ]
        for inputs in given:
            assert_close(logits_of(decoder, *inputs)[compared], wanted["logits"][compared])


def test_chatglm_without_mask_and_positions(shared: Path) -> None:
    for folder in both(shared, "chatglm-6b"):
        decoder, wanted = load_decoder(folder), expected(folder)
        assert_close(logits_of(decoder, wanted["single_input_ids"]), wanted["single_logits"])


def test_glm_defaults_and_prompt_lengths(shared: Path) -> None:
    for folder in both(shared, "glm-10b"):
        decoder, wanted = load_decoder(folder), expected(folder)
        assert_close(logits_of(decoder, wanted["plain_input_ids"]), wanted["plain_logits"])
        found = logits_of(decoder, wanted["sep_input_ids"], wanted["sep"])
        assert_close(found, wanted["sep_logits"])


def test_masks_and_positions_of_another_shape_are_refused() -> None:
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(ShapeError, match=r"attention_mask is \[1, 2\]"):
        load_decoder(golden("llama"))(ids, torch.ones(1, 2))
    with pytest.raises(ShapeError, match="boolean"):
        load_decoder(golden("chatglm-6b"))(ids, torch.ones(1, 1, 3, 3))
    with pytest.raises(ShapeError, match="two coordinates"):
        load_decoder(golden("glm-10b"))(ids, None, ids)


def test_learned_positions_have_an_end() -> None:
    decoder = load_decoder(golden("gpt2"))
    with pytest.raises(CapacityError, match="learned 24 positions, but position 24"):
        decoder(torch.ones(1, 25, dtype=torch.long))
