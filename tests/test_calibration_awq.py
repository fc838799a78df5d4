"""AWQ at work on a model: scales fold away, and the result is better than rounding to nearest."""

from pathlib import Path

import pytest
import torch
from checkpoints import tiny_checkpoint
from torch import Tensor

from danlu.calibration.walk import Quantized, quantize_decoder
from danlu.commands.samples import written_rows
from danlu.config.quantize.awq import AwqScheme
from danlu.config.quantize.run import Override, QuantizeRun, Scheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.eval.compare import compare_decoders
from danlu.loading import load_decoder, load_tokenizer, save_decoder
from danlu.models.decoder import Decoder
from danlu.progress import Silent
from danlu.quantize.linear import QuantizedLinear


def quantized(
    folder: Path, work: Path, scheme: Scheme, rows: list[list[int]], down: Scheme | None = None
) -> Quantized:
    overrides = [Override(match="*.down_proj", scheme=down)] if down else []
    run = QuantizeRun(
        model=str(folder), out="out", scheme=scheme, overrides=overrides, device="cpu"
    )
    return quantize_decoder(folder, run, rows, work, Silent())


def token_rows(decoder: Decoder, count: int = 6, length: int = 24) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    rows: list[list[int]] = torch.randint(
        decoder.vocab_size, (count, length), generator=generator
    ).tolist()
    return rows


def awq_groups(size: int) -> AwqScheme:
    return AwqScheme(group_size=size, scale_steps=6)


def nearest_groups(size: int) -> QuantScheme:
    return QuantScheme(bits=4, group_size=size, head_bits=16)


def logits(decoder: Decoder, rows: list[list[int]]) -> Tensor:
    with torch.inference_mode():
        return decoder.float()(torch.tensor(rows))


@pytest.mark.parametrize(
    ("family", "group_size", "file"),
    [("qwen2", 16, "awq"), ("bloom", 16, "awq"), ("qwen3_moe", 4, "compressed-tensors")],
)
def test_scales_are_folded_and_every_number_is_in_the_file(
    family: str, group_size: int, file: str, tmp_path: Path
) -> None:
    folder = tiny_checkpoint(tmp_path / "model", family)
    dense = load_decoder(folder)
    rows = token_rows(dense)
    scheme = AwqScheme(group_size=group_size, scale_steps=4)
    result = quantized(folder, tmp_path / "work", scheme, rows)
    nearest = QuantScheme(bits=4, group_size=group_size, head_bits=16)
    plain = quantized(folder, tmp_path / "plain", nearest, rows)
    errors = [sum(layer.relative_error for layer in of.layers) for of in (result, plain)]
    assert errors[0] < 0.97 * errors[1]
    changed = [
        not torch.equal(dict(dense.named_parameters())[name], parameter)
        for name, parameter in result.decoder.named_parameters()
        if "layernorm" in name and name.endswith("weight")
    ]
    assert any(changed)
    save_decoder(result.decoder, tmp_path / "out", quant_format=file)
    again = load_decoder(tmp_path / "out")
    assert again.published is not None
    assert again.published.quantization is not None
    assert again.published.quantization["quant_method"] == file
    for name, layer in result.decoder.linears():
        if isinstance(layer, QuantizedLinear):
            assert torch.equal(again.get_submodule(name).dense_weight(), layer.dense_weight())
    assert torch.equal(logits(again, rows), logits(result.decoder, rows))


def test_it_is_closer_to_a_trained_model_than_rounding_to_nearest(
    shared: Path, tmp_path: Path
) -> None:
    folder = shared / "data" / "models" / "stories260K"
    reference, tokenizer = load_decoder(folder), load_tokenizer(folder)
    rows, held_out = (
        written_rows(reference, tokenizer, Silent(), count=8, seed=seed) for seed in (0, 1)
    )
    awq, rtn = (
        compare_decoders(reference, of.decoder.float(), [held_out])
        for of in (
            quantized(folder, tmp_path / "awq", awq_groups(32), rows, down=awq_groups(43)),
            quantized(folder, tmp_path / "rtn", nearest_groups(32), [], down=nearest_groups(43)),
        )
    )
    assert awq.kl_mean < 0.85 * rtn.kl_mean
    assert awq.perplexity_candidate < rtn.perplexity_candidate
