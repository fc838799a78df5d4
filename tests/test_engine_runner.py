"""Prefill and decode against the full forward pass, and against the reference's own greedy ids."""

import random
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from engine_parts import tiny_decoder
from safetensors.torch import load_file

from danlu.engine.generator import Generator
from danlu.engine.runner import StaticBatch
from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import Request
from danlu.errors import CapacityError, CheckpointError
from danlu.loading import load_decoder

SMALL = Path(__file__).parent / "golden-small"
FAMILIES = ("llama", "llama2", "chatglm2-6b", "bloom")


def random_prompts(lengths, vocab_size, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(vocab_size) for _ in range(length)] for length in lengths]


def greedy_ids(decoder, prompts, new_tokens, **options):
    params = SamplingParams(temperature=0.0)
    requests = [Request(prompt, params, new_tokens, frozenset(), 0) for prompt in prompts]
    answers = Generator(decoder, **options).run(requests)
    return [answer.token_ids for [answer] in answers]


def follow(batch, continuations):
    """Return the logits [B, 1 + T, V] after each prompt and each of the given tokens."""
    logits = [batch.prefill()]
    for tokens in zip(*continuations, strict=True):
        logits.append(batch.decode(torch.tensor(tokens)))
    return torch.stack(logits, dim=1)


def full_logits(decoder, prompt, continuation):
    with torch.inference_mode():
        logits = decoder(torch.tensor([prompt + continuation]))
    return logits[0, len(prompt) - 1 :]


@pytest.fixture(params=FAMILIES)
def decoder(request):
    return load_decoder(SMALL / request.param)


def test_prefill_and_decode_equal_the_full_forward_pass(decoder):
    vocab = decoder.config.vocab_size
    prompts = random_prompts((7, 1, 12, 7), vocab)
    answers = random_prompts((5, 5, 5, 5), vocab, seed=1)
    logits = follow(StaticBatch(decoder, prompts, 5), answers)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        expected = full_logits(decoder, prompt, answer)
        torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefill_tokens", [1, 5, 16, 1000])
def test_chunked_prefill_equals_whole(decoder, prefill_tokens):
    prompts = random_prompts((9, 3, 14), decoder.config.vocab_size)
    whole = StaticBatch(decoder, prompts, 1).prefill()
    chunked = StaticBatch(decoder, prompts, 1, prefill_tokens).prefill()
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)


def test_rows_can_be_dropped_and_copied(decoder):
    vocab = decoder.config.vocab_size
    prompts = random_prompts((4, 9, 2), vocab)
    answers = random_prompts((3, 3, 3, 3), vocab, seed=1)
    batch = StaticBatch(decoder, prompts, 4)
    batch.prefill()
    batch.select([2, 0, 0, 1])
    steps = [batch.decode(torch.tensor(tokens)) for tokens in zip(*answers, strict=True)]
    batch.select([3, 1])
    last = batch.decode(torch.tensor([5, 6]))
    for row, prompt in enumerate((2, 0, 0, 1)):
        expected = full_logits(decoder, prompts[prompt], answers[row])[1:]
        got = torch.stack([step[row] for step in steps])
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    expected = full_logits(decoder, prompts[1], [*answers[3], 5])[-1]
    torch.testing.assert_close(last[0], expected, atol=1e-5, rtol=1e-5)


def test_a_batch_of_prompts_gets_the_tokens_each_gets_alone(decoder):
    prompts = random_prompts((5, 11, 1, 8, 8, 3), decoder.config.vocab_size)
    together = greedy_ids(decoder, prompts, 8)
    assert together == [greedy_ids(decoder, [prompt], 8)[0] for prompt in prompts]


def test_a_small_budget_changes_batches_but_no_token():
    decoder = tiny_decoder()
    prompts = random_prompts((5, 21, 1, 8, 8, 30), 300)
    whole = greedy_ids(decoder, prompts, 12)
    assert greedy_ids(decoder, prompts, 12, kv_cache_bytes=1, prefill_tokens=3) == whole


def test_more_tokens_than_slots_are_refused():
    batch = StaticBatch(tiny_decoder(), [[1, 2]], 1)
    batch.prefill()
    batch.decode(torch.tensor([3]))
    with pytest.raises(CapacityError, match="holds 3 tokens per row, but 4 are needed"):
        batch.decode(torch.tensor([4]))


def test_a_prompt_of_one_token_works():
    assert len(greedy_ids(tiny_decoder(), [[7]], 4)[0]) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_ids_equal_the_original_implementation(family):
    expected = load_file(SMALL / family / "expected.safetensors")
    prompt, ids = expected["prompt_ids"].tolist(), expected["greedy_ids"].tolist()
    assert greedy_ids(load_decoder(SMALL / family), prompt, len(ids[0])) == ids


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_ids_of_padded_batches_equal_the_original_implementation(family, shared):
    folder = shared / "golden" / family
    expected = load_file(folder / "expected.safetensors")
    decoder = load_decoder(folder)
    prompt, ids = expected["prompt_ids"].tolist(), expected["greedy_ids"].tolist()
    assert greedy_ids(decoder, prompt, len(ids[0])) == ids
    tokens, real = expected["input_ids"], expected["attention_mask"].bool()
    prompts = [row[mask].tolist() for row, mask in zip(tokens, real, strict=True)]
    batch_ids = expected["batch_greedy_ids"].tolist()
    assert greedy_ids(decoder, prompts, len(batch_ids[0])) == batch_ids


def test_logits_that_are_not_finite_are_an_error():
    decoder = deepcopy(tiny_decoder())  # the one that others use stays as it is
    decoder.model.norm.weight.data.fill_(float("nan"))
    request = Request([1, 2], SamplingParams(seed=0), 2, frozenset(), 0)
    with pytest.raises(CheckpointError, match="logits of the model are not finite"):
        Generator(decoder).run([request])
