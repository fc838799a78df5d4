"""AWQ checkpoints in the layout GEMM."""

from pathlib import Path

import pytest
import torch
from quantized_cases import check_given_back, check_numbers

from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError
from danlu.loading.quantized import quantization_config
from danlu.quantize.format import find_format
from danlu.quantize.formats.awq import FORMAT
from danlu.quantize.rounding.rtn import quantize_rtn


def test_numbers_are_those_of_the_tool() -> None:
    check_numbers("awq-gemm-w4g32")


def test_what_was_read_is_given_back(tmp_path: Path) -> None:
    config = check_given_back("awq-gemm-w4g32", tmp_path)
    assert config["quantization_config"]["quant_method"] == "awq"  # type: ignore[index]


@pytest.mark.parametrize("group_size", [16, 64])
@pytest.mark.parametrize("symmetric", [True, False])
def test_any_weight_goes_to_and_fro(group_size: int, symmetric: bool) -> None:
    scheme = QuantScheme(bits=4, group_size=group_size, symmetric=symmetric)
    weight = quantize_rtn(torch.randn(24, 64, generator=torch.Generator().manual_seed(0)), scheme)
    again = FORMAT.decode(FORMAT.encode(weight, {}), {})
    for name, tensor in weight.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


def test_outputs_are_stored_in_the_order_of_the_kernel() -> None:
    words = FORMAT.encode(quantize_rtn(torch.randn(8, 32), QuantScheme(bits=4, symmetric=True)), {})
    weight = FORMAT.decode(words, {})
    low_bits = words["qweight"][0, 0] & 15, (words["qweight"][0, 0] >> 4) & 15
    assert [int(bits) - 8 for bits in low_bits] == weight.codes[[0, 2], 0].tolist()


def test_the_config_of_autoawq_is_found_beside(tmp_path: Path) -> None:
    (tmp_path / "quant_config.json").write_text('{"w_bit": 4, "version": "GEMM"}')
    config = quantization_config(tmp_path, {})
    assert config is not None
    assert find_format(config) is FORMAT


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"version": "gemv"}, "the layout 'gemv'"),
        ({"version": "GEMV_FAST", "bits": 3}, "3 bits, the layout 'gemv_fast'"),
        ({"checkpoint_format": "marlin"}, "the layout 'marlin'"),
    ],
)
def test_what_is_not_read_is_said(config: dict[str, object], told: str) -> None:
    with pytest.raises(QuantizationError, match=f"not read: {told}.*layout gemm.*quantize="):
        find_format({"quant_method": "awq", **config})


def test_another_layout_shows_in_the_shapes() -> None:
    words = {"qweight": torch.zeros(64, 4, dtype=torch.int32), "scales": torch.zeros(64, 2)}
    with pytest.raises(QuantizationError, match="not in the layout gemm"):
        FORMAT.decode({**words, "qzeros": torch.zeros(64, 1, dtype=torch.int32)}, {})


def test_it_is_found_by_its_method() -> None:
    with pytest.raises(
        QuantizationError, match=r"'awk', which is not read yet\. Did you mean 'awq'\?"
    ):
        find_format({"quant_method": "awk"})
