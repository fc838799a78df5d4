"""The compiled product of one row by int8 weights."""

import pytest
import torch
from torch import nn

from danlu.config.quantize.scheme import PRESETS
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.operators import compiled_rows
from danlu.quantize.operators.compiled_rows import CompiledInt8RowOperator, compile_products
from danlu.quantize.rounding.rtn import quantize_rtn


@pytest.fixture(params=["as it stands", pytest.param("compiled", marks=pytest.mark.slow)])
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The formula, and what torch's compiler makes of it (which takes seconds)."""
    if request.param == "as it stands":
        monkeypatch.setattr(compiled_rows, "compiled_product", lambda: compiled_rows.product)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own
@pytest.mark.usefixtures("product")
def test_one_row_is_as_by_the_dequantized_weight_and_more_rows_are_as_before() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 64, generator=generator)
    x = torch.randn(3, 64, generator=generator)
    layer = QuantizedLinear(quantize_rtn(weight, PRESETS["int8"]), None)
    before = layer(x)
    model = nn.Sequential(layer)
    assert compile_products(model) == 1
    assert isinstance(layer.operator, CompiledInt8RowOperator)
    torch.testing.assert_close(layer(x[:1]), x[:1] @ layer.dense_weight().T)
    assert torch.equal(layer(x), before)
    assert compile_products(model) == 0


def test_only_int8_of_short_rows_gains() -> None:
    weight = torch.ones(64, 64)
    int4 = QuantizedLinear(quantize_rtn(weight, PRESETS["int4"]), None)
    long = QuantizedLinear(quantize_rtn(torch.ones(2, 4096), PRESETS["int8"]), None)
    assert compile_products(nn.Sequential(int4, long)) == 0
