"""Qwen3-MoE and DeepSeek-V3: against the originals, with mistakes, and what their configs say."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_close, copy_golden, expected, golden, tiny_decoder
from torch import Tensor, nn

from danlu.adapters.handling import attach_adapter
from danlu.config.adapter import LoraConfig
from danlu.engine.generator import Generator
from danlu.engine.runner import StaticBatch
from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import Request
from danlu.loading import decoder_from_config, load_decoder, save_decoder
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.nn.moe import CorrectedRouter, MixtureOfExperts
from danlu.weights.files import find_weight_files, stream

NAMES = ("qwen3_moe", "deepseek_v3")


def mixtures(decoder: Decoder) -> list[MixtureOfExperts]:
    return [module for module in decoder.modules() if isinstance(module, MixtureOfExperts)]


def logits(decoder: Decoder, wanted: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        return decoder(wanted["input_ids"], wanted["attention_mask"])[wanted["compare_mask"]]


def assert_golden(decoder: Decoder, folder: Path) -> None:
    wanted = expected(folder)
    assert_close(logits(decoder, wanted), wanted["logits"][wanted["compare_mask"]])


def greedy_ids(decoder: Decoder, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    params = SamplingParams(temperature=0.0)
    requests = [Request(prompt, params, new_tokens, frozenset(), 0) for prompt in prompts]
    return [answer.token_ids for [answer] in Generator(decoder).run(requests)]


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor, _ in stream(find_weight_files(folder))}


# Against the original.


@pytest.mark.parametrize("for_inference", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_originals(name: str, for_inference: bool) -> None:
    assert_golden(load_decoder(golden(name), for_inference=for_inference), golden(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_larger_goldens(name: str, shared: Path) -> None:
    folder = shared / "golden" / name
    decoder, wanted = load_decoder(folder), expected(folder)
    assert_golden(decoder, folder)
    caught: list[Tensor] = []
    decoder.lm_head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    logits(decoder, wanted)
    mask = wanted["compare_mask"]
    assert_close(caught[0][mask], wanted["hidden"][mask])


@pytest.mark.parametrize("name", NAMES)
def test_greedy_ids_through_our_cache_are_the_originals(name: str, shared: Path) -> None:
    folder = shared / "golden" / name
    decoder, wanted = load_decoder(folder), expected(folder)
    prompt, ids = wanted["prompt_ids"].tolist(), wanted["greedy_ids"]
    assert greedy_ids(decoder, prompt, ids.shape[1]) == ids.tolist()
    batch = StaticBatch(decoder, prompt, ids.shape[1])
    steps = [batch.prefill(), *(batch.decode(ids[:, i]) for i in range(ids.shape[1] - 1))]
    assert_close(torch.stack(steps, dim=1), wanted["greedy_logits"])
    rows = zip(wanted["input_ids"], wanted["attention_mask"].bool(), strict=True)
    batch_ids = wanted["batch_greedy_ids"]
    prompts = [row[real].tolist() for row, real in rows]
    assert greedy_ids(decoder, prompts, batch_ids.shape[1]) == batch_ids.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_saved_tensors_are_the_published_bytes(name: str, tmp_path: Path) -> None:
    save_decoder(load_decoder(golden(name)), tmp_path)
    before, after = stored(golden(name)), stored(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(
        (golden(name) / "config.json").read_text()
    )


def stock_logits(folder: Path, wanted: dict[str, Tensor]) -> Tensor:
    """What stock transformers computes; it finds all its tensors and no others."""
    transformers = pytest.importorskip("transformers")
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model.config.save_pretrained(folder / "respelled")
    with torch.inference_mode():
        out = model.eval()(
            wanted["input_ids"], wanted["attention_mask"], position_ids=wanted["position_ids"]
        )
    return out.logits[wanted["compare_mask"]]


@pytest.mark.parametrize("name", NAMES)
def test_stock_transformers_opens_saved_folders_and_we_open_its_config(
    name: str, tmp_path: Path
) -> None:
    wanted = expected(golden(name))
    save_decoder(load_decoder(golden(name)), tmp_path)
    assert_close(stock_logits(tmp_path, wanted), logits(load_decoder(tmp_path), wanted))
    respelled = (tmp_path / "respelled" / "config.json").read_text()
    assert "rope_parameters" in json.loads(respelled)  # the spelling of transformers 5
    (tmp_path / "config.json").write_text(respelled)
    assert_golden(load_decoder(tmp_path), golden(name))


def corrected_decoder() -> Decoder:
    """DeepSeek with corrections, which are zero in the goldens."""
    decoder = load_decoder(golden("deepseek_v3"))
    generator = torch.Generator().manual_seed(9)
    for mixture in mixtures(decoder):
        assert isinstance(mixture.gate, CorrectedRouter)
        mixture.gate.e_score_correction_bias.data.normal_(0.0, 0.5, generator=generator)
    return decoder


def test_corrections_are_as_in_stock_transformers(tmp_path: Path) -> None:
    wanted = expected(golden("deepseek_v3"))
    decoder = corrected_decoder()
    save_decoder(decoder, tmp_path)
    theirs = stock_logits(tmp_path, wanted)
    assert_close(theirs, logits(decoder, wanted))
    with pytest.raises(AssertionError, match="index"):
        assert_close(theirs, logits(load_decoder(golden("deepseek_v3")), wanted))


def random_decoder(values: dict[str, Any]) -> Decoder:
    decoder = decoder_from_config(values).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(10)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2, generator=generator)
    return decoder.eval()


def yarn(**changes: float) -> dict[str, Any]:
    return {"type": "yarn", "factor": 8, "original_max_position_embeddings": 16, **changes}


OTHER_SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("qwen3_moe", {"mlp_only_layers": [0], "norm_topk_prob": False, "num_experts_per_tok": 3}),
    ("qwen3_moe", {"decoder_sparse_step": 2, "attention_bias": True, "head_dim": 10}),
    ("qwen3_moe", {"rope_scaling": yarn(), "tie_word_embeddings": True, "num_experts": 5}),
    ("deepseek_v3", {"q_lora_rank": None, "rope_scaling": None, "n_shared_experts": 2}),
    ("deepseek_v3", {"attention_bias": True, "n_group": 1, "num_experts_per_tok": 3}),
    ("deepseek_v3", {"rope_scaling": yarn(mscale=0.7, mscale_all_dim=1.2), "v_head_dim": 26}),
    ("deepseek_v3", {"rope_scaling": yarn(), "norm_topk_prob": False, "rms_norm_eps": 0.01}),
    ("deepseek_v3", {"rope_interleave": False, "first_k_dense_replace": 0, "topk_group": 2}),
]


@pytest.mark.parametrize(("family", "changes"), OTHER_SHAPES)
def test_other_shapes_are_as_in_stock_transformers(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    decoder = random_decoder(discover()[family].tiny() | changes)
    save_decoder(decoder, tmp_path)
    ids = torch.randint(256, (2, 40), generator=torch.Generator().manual_seed(11))
    everything = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(40).expand(2, -1),
        "compare_mask": torch.ones_like(ids).bool(),
    }
    assert_close(stock_logits(tmp_path, everything), logits(decoder, everything))


# Mistakes that the goldens must notice.


def change_rules(decoder: Decoder, **changes: Any) -> None:
    for mixture in mixtures(decoder):
        mixture.gate.rule = replace(mixture.gate.rule, **changes)


def forget_to_normalize(decoder: Decoder) -> None:
    change_rules(decoder, normalized=False)


def forget_the_scale(decoder: Decoder) -> None:
    change_rules(decoder, scale=1.0)


def forget_the_groups(decoder: Decoder) -> None:
    change_rules(decoder, num_groups=1, top_groups=1)


def choose_one_expert_more(decoder: Decoder) -> None:
    change_rules(decoder, top_k=mixtures(decoder)[0].gate.rule.top_k + 1)


def swap_two_experts(decoder: Decoder) -> None:
    experts = mixtures(decoder)[0].experts
    experts[0], experts[1] = experts[1], experts[0]


def forget_the_shared_expert(decoder: Decoder) -> None:
    for mixture in mixtures(decoder):
        mixture.shared_experts = None


def latent(decoder: Decoder) -> list[Any]:
    return [block.self_attn for block in decoder.blocks()]


def rescale_attention(decoder: Decoder) -> None:
    for attention in latent(decoder):
        attention.layer = replace(attention.layer, scale=attention.widths.head**-0.5)


def rotate_the_leading_dims(decoder: Decoder) -> None:
    for attention in latent(decoder):
        plain = attention.widths.plain
        attention.queries = lambda x, own=attention.queries, n=plain: (
            own(x).unflatten(-1, (4, -1)).roll(-n, dims=-1).flatten(-2)
        )


def forget_the_latent_norm(decoder: Decoder) -> None:
    for attention in latent(decoder):
        attention.kv_a_layernorm = nn.Identity()


def split_pairs_in_halves(decoder: Decoder) -> None:
    scheme = decoder.model.position_scheme
    decoder.model.position_scheme = replace(scheme, interleaved=False)


def forget_the_stretch(decoder: Decoder) -> None:
    scheme = decoder.model.position_scheme
    plain = type(scheme)(scheme.rotary_dim, scheme.theta, scheme.interleaved)
    decoder.model.position_scheme = plain


MISTAKES: dict[str, tuple[Callable[[Decoder], None], ...]] = {
    "qwen3_moe": (forget_to_normalize, choose_one_expert_more, swap_two_experts),
    "deepseek_v3": (
        forget_to_normalize,
        forget_the_scale,
        forget_the_groups,
        choose_one_expert_more,
        swap_two_experts,
        forget_the_shared_expert,
        rescale_attention,
        rotate_the_leading_dims,
        forget_the_latent_norm,
        split_pairs_in_halves,
        forget_the_stretch,
    ),
}


@pytest.mark.parametrize(("name", "mistake"), [(n, m) for n, ms in MISTAKES.items() for m in ms])
def test_goldens_notice(name: str, mistake: Callable[[Decoder], None]) -> None:
    decoder = load_decoder(golden(name))
    mistake(decoder)
    with pytest.raises(AssertionError, match="index"):
        assert_golden(decoder, golden(name))


# Beside the original.


@pytest.mark.parametrize("name", NAMES)
def test_routers_are_neither_adapted_nor_quantized(name: str, tmp_path: Path) -> None:
    decoder = tiny_decoder(name)
    adapted = attach_adapter(decoder, LoraConfig(lora_rank=2), torch.Generator().manual_seed(0))
    assert not any(".gate" in layer and "gate_proj" not in layer for layer in adapted)
    assert sum("experts.3." in layer for layer in adapted) == 3 * len(mixtures(decoder))
    folder = copy_golden(name, tmp_path / name)
    exact, rounded = load_decoder(folder), load_decoder(folder, quantize="int8")
    gates = zip(mixtures(exact), mixtures(rounded), strict=True)
    assert all(torch.equal(a.gate.weight, b.gate.weight) for a, b in gates)
    wanted = expected(folder)
    found, exact_logits = logits(rounded, wanted), logits(exact, wanted)
    assert 1e-4 < float((found - exact_logits).abs().median()) < 0.2


def test_bfloat16_for_inference_takes_tokens_by_expert() -> None:
    wanted = expected(golden("qwen3_moe"))
    decoder = load_decoder(golden("qwen3_moe"), torch.bfloat16, for_inference=True)
    found, right = logits(decoder, wanted).float(), wanted["logits"][wanted["compare_mask"]]
    assert float((found - right).abs().median()) < 0.1
