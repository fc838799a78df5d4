"""Rounded keys and values in files: what other tools wrote, calibrated scales, what is noted."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import expected, sequences, spoil_weights, tiny_checkpoint, tiny_decoder
from kv_cache_parts import greedy, served
from quantized_cases import case, check_rounded, stored_tensors

from danlu.calibration.kv_cache import cache_rounding
from danlu.commands.info import ModelInfo, describe
from danlu.config.quantize.kv_cache import KvCacheScheme
from danlu.engine.llm import LLM
from danlu.errors import CheckpointError, ConfigError, QuantizationError
from danlu.eval.compare import compare_decoders
from danlu.loading import dequantize, load_decoder, load_tokenizer, save_decoder
from danlu.models.decoder import Decoder
from danlu.nn.cache_rounding import FixedRounding, TokenRounding

KV8 = "ct-w8a8-kv8"
PER_HEAD = KvCacheScheme(scales="head")


def rows_of(decoder: Decoder, count: int = 6) -> list[list[int]]:
    return [sequences(decoder, 1, 9 + n % 2, seed=n)[0].tolist() for n in range(count)]


def test_a_cache_gives_the_logits_and_tokens_of_compressed_tensors() -> None:
    folder = case(KV8)
    wanted, decoder = expected(folder), load_decoder(folder)
    prompts, answers = (ids.tolist() for ids in wanted["input_ids"].split([5, 11], dim=1))
    found = served(decoder, prompts, answers)
    check_rounded(found, wanted["actquant_logits"][:, 4:], 5e-3)
    ids = greedy(decoder, wanted["prompt_ids"][0].tolist(), wanted["greedy_ids"].shape[1])
    assert ids == wanted["greedy_ids"][0].tolist()
    decoder.kv_cache = None
    plain = served(decoder, prompts, answers)
    assert float((plain - found).norm() / found.norm()) > 1e-3


@pytest.mark.parametrize("family", ["llama", "bloom", "qwen", "chatglm", "deepseek_v3"])
@pytest.mark.parametrize("scales", ["head", "tensor"])
def test_calibrated_scales_hold_what_the_text_showed(family: str, scales: str) -> None:
    decoder = tiny_decoder(family)
    rows = rows_of(decoder)
    rounding = cache_rounding(decoder, KvCacheScheme(scales=scales), rows)
    assert isinstance(rounding, FixedRounding)
    heads = {1} if scales == "tensor" else {shape.num_kv_heads for shape in decoder.kv_shapes()}
    assert {len(own) for own in (*rounding.keys, *rounding.values)} == heads
    seen = Seen()
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row])
            decoder.model(ids, *seen.around(decoder, ids))
    for layer, (keys, values) in seen.largest.items():
        for found, largest in ((rounding.keys[layer], keys), (rounding.values[layer], values)):
            wanted = largest.amax() if scales == "tensor" else largest
            torch.testing.assert_close(
                found.float(), wanted.expand(len(found)) / 127.5, rtol=4e-3, atol=0
            )
    plain = served(decoder, rows[:1], [[5, 6, 7]])
    decoder.kv_cache = rounding
    cost = (served(decoder, rows[:1], [[5, 6, 7]]) - plain).norm() / plain.norm()
    assert 1e-4 < float(cost) < 0.03


class Seen:
    """The largest key and value of each layer and head, by another way than the recorder's."""

    def __init__(self) -> None:
        self.largest: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def around(self, decoder: Decoder, ids: torch.Tensor):
        positions, self.inner = decoder.sequence_rule().context(ids, None, None)
        return positions, self

    def attend(self, layer, q, k, v):
        found = tuple(heads[0].abs().amax((0, 2)) for heads in (k, v))
        before = self.largest.get(layer.index, found)
        self.largest[layer.index] = tuple(map(torch.maximum, before, found))
        return self.inner.attend(layer, q, k, v)


@pytest.mark.parametrize(
    ("scales", "quantize"),
    [
        ("token", None),
        ("head", None),
        ("token", "int8"),
        ("head", "int8"),
        ("tensor", "int8"),
        ("tensor", "nf4"),
    ],
)
def test_a_folder_keeps_how_keys_and_values_are_rounded(
    scales: str, quantize: str | None, tmp_path: Path
) -> None:
    folder = tiny_checkpoint(tmp_path / "plain")
    decoder = load_decoder(folder, quantize=quantize)
    rows = rows_of(decoder)
    decoder.kv_cache = cache_rounding(decoder, KvCacheScheme(scales=scales), rows)
    wanted = served(decoder, rows[::2], [[1, 2]] * 3)
    save_decoder(decoder, tmp_path / "out")
    native = quantize == "int8" and scales != "token"
    stored = stored_tensors(tmp_path / "out")
    assert native == ("model.layers.0.self_attn.k_scale" in stored)
    assert native != (tmp_path / "out" / "danlu.json").exists()
    if native:
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        strategy = config["quantization_config"]["kv_cache_scheme"]["strategy"]
        assert strategy == {"head": "attn_head", "tensor": "tensor"}[scales]
    again = load_decoder(tmp_path / "out")
    assert torch.equal(served(again, rows[::2], [[1, 2]] * 3), wanted)
    dequantize(again)  # as merging does: the cache is what the adapter saw
    save_decoder(again, tmp_path / "dense")
    kept = load_decoder(tmp_path / "dense").kv_cache
    assert kept is not None
    assert kept.summary == decoder.kv_cache.summary
    again.kv_cache = None  # and a folder that was written over forgets it
    save_decoder(again, tmp_path / "out")
    assert load_decoder(tmp_path / "out").kv_cache is None


def test_fused_attention_modules_have_their_scales(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "plain", "bloom")
    decoder = load_decoder(folder, quantize="int8")
    decoder.kv_cache = cache_rounding(decoder, PER_HEAD, rows_of(decoder))
    save_decoder(decoder, tmp_path / "out")
    names = [name for name in stored_tensors(tmp_path / "out") if name.endswith("k_scale")]
    assert names == [f"transformer.h.{i}.self_attention.k_scale" for i in range(2)]
    again = load_decoder(tmp_path / "out").kv_cache
    assert isinstance(again, FixedRounding)
    assert all(map(torch.equal, again.keys, decoder.kv_cache.keys))


def test_a_model_says_what_cannot_be_calibrated() -> None:
    decoder = tiny_decoder("llama")
    with pytest.raises(QuantizationError, match=r"Scales for each head .* come from calibration"):
        cache_rounding(decoder, PER_HEAD, [])
    with torch.no_grad():
        decoder.model.layers[1].self_attn.v_proj.weight[0, 0] = float("nan")
    with pytest.raises(
        QuantizationError, match=r"A value of layer 1 is not finite on .*row 1, row 3"
    ):
        cache_rounding(decoder, PER_HEAD, rows_of(decoder))


def test_damaged_scales_are_all_named(tmp_path: Path) -> None:
    folder = shutil.copytree(case(KV8), tmp_path / "model")
    attention = "model__layers__{}__self_attn__{}"
    spoil_weights(
        folder,
        **{
            attention.format(0, "k_scale"): None,
            attention.format(0, "v_scale"): torch.ones(3),
            attention.format(1, "k_scale"): torch.tensor([-1.0]),
        },
    )
    with pytest.raises(CheckpointError) as told:
        load_decoder(folder)
    for problem in (
        r"model.layers.0.self_attn.k_scale is missing",
        "model.layers.0.self_attn.v_scale has 3 scales; expected 1",
        "model.layers.1.self_attn.k_scale holds [-1.0]; expected positive numbers",
    ):
        assert problem in str(told.value)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"scheme": {"bits": 4}}, "scheme.bits: "),
        ({"scheme": {"scales": "head"}, "keys": [[0.1, 0.1]], "values": []}, "scales of 1 layers"),
        ("int8", "kv_cache: "),
    ],
)
def test_a_note_that_does_not_fit_is_an_error(said: object, told: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path)
    (folder / "danlu.json").write_text(json.dumps({"kv_cache": said}))
    with pytest.raises(CheckpointError, match=f"says of 'kv_cache' what cannot be used.*{told}"):
        load_decoder(folder)
    found = describe(folder)
    assert isinstance(found, ModelInfo)
    assert any("kv_cache" in problem for problem in found.problems)


def test_llm_chooses_the_cache_and_info_tells_its_size(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "models" / "stories260K"
    plain, rounded = LLM(folder), LLM(folder, kv_cache="int8")
    assert plain.decoder.kv_cache is None
    assert isinstance(rounded.decoder.kv_cache, TokenRounding)
    found = describe(folder)
    assert isinstance(found, ModelInfo)
    assert found.memory is not None
    # layers, keys and values, heads, and each head in bf16, or its bytes and a float32 scale
    assert found.memory.cache_token_bytes == 5 * 2 * 4 * 8 * 2
    assert found.memory.cache_int8_token_bytes == 5 * 2 * 4 * (8 + 4)
    assert rounded.decoder.cache_token_bytes() == 5 * 2 * 4 * (8 + 4)
    assert any("--kv-cache int8" in value for _, value in found.rows())
    with pytest.raises(ConfigError, match=r"no cache 'int4'\. Did you mean 'int8'"):
        LLM(folder, kv_cache="int4")  # type: ignore[arg-type]
    save_decoder(_noted(folder), tmp_path)
    shutil.copy(folder / "tokenizer.model", tmp_path)
    assert isinstance(LLM(tmp_path).decoder.kv_cache, TokenRounding)
    assert LLM(tmp_path, kv_cache="plain").decoder.kv_cache is None


def _noted(folder: Path) -> Decoder:
    decoder = load_decoder(folder)
    decoder.kv_cache = TokenRounding()
    return decoder


def test_a_trained_model_hardly_notices(shared: Path) -> None:
    """The cost is that of its keys: some of their channels are five times as large as others."""
    folder = shared / "data" / "models" / "stories260K"
    text = shared / "data" / "train" / "pretrain" / "tinystories_sample.txt"
    plain, rounded = load_decoder(folder), load_decoder(folder)
    tokenizer = load_tokenizer(folder)
    told = [each.strip() for each in text.read_text("utf-8").split("<|endoftext|>")]
    rows = [[*tokenizer.prompt_prefix(), *tokenizer.encode(each)] for each in told if each]
    costs = {}
    for scales in ("token", "head", "tensor"):
        rounded.kv_cache = None
        rounded.kv_cache = cache_rounding(rounded, KvCacheScheme(scales=scales), rows[:2])
        costs[scales] = compare_decoders(plain, rounded, [rows[2:]])
    assert 1e-6 < costs["token"].kl_mean < 2.5e-3
    assert costs["token"].kl_mean < costs["head"].kl_mean < 8e-3
    assert costs["head"].kl_mean < costs["tensor"].kl_mean < 1e-2
    assert costs["token"].top1_agreement > 0.975
    assert all(cost.top1_agreement > 0.95 for cost in costs.values())
