"""Which layer is rounded how, where a run cannot be taken word by word."""

from pathlib import Path

import pytest

from danlu.calibration.walk import planned
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.run import QuantizeRun, Scheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError
from danlu.loading import decoder_from_config, save_decoder
from danlu.models.llama_like import tiny_llama_like

DOWN = "model.layers.0.mlp.down_proj"


def checkpoint(folder: Path, intermediate_size: int) -> Path:
    values = tiny_llama_like("LlamaForCausalLM", "llama")
    decoder = decoder_from_config({**values, "intermediate_size": intermediate_size})
    save_decoder(decoder.to_empty(device="cpu"), folder)
    return folder


def run(folder: Path, scheme: Scheme) -> QuantizeRun:
    return QuantizeRun(model=str(folder), out=str(folder / "out"), scheme=scheme)


@pytest.mark.parametrize("scheme", [QuantScheme(bits=4, group_size=32), GptqScheme(group_size=32)])
def test_layers_of_an_odd_width_get_the_largest_groups_that_divide_it(
    scheme: Scheme, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path / "model", intermediate_size=172)
    plan = planned(folder, run(folder, scheme))
    assert plan.schemes["model.layers.0.mlp.up_proj"].group_size == 32
    assert plan.schemes[DOWN].group_size == 4
    [note] = plan.notes
    assert note.startswith(f"{DOWN} has 172 inputs, which groups of 32 do not divide (and 1 more")
    assert note.endswith("groups of 4 there")


@pytest.mark.parametrize(("width", "size"), [(192, 48), (173, 32)])
def test_groups_that_divide_nothing_or_not_the_hidden_size_are_an_error(
    width: int, size: int, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path / "model", intermediate_size=width)
    with pytest.raises(QuantizationError, match=f"which groups of {size} do not divide"):
        planned(folder, run(folder, QuantScheme(bits=4, group_size=size)))


def test_a_format_of_one_group_size_is_refused_before_the_work(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", intermediate_size=172)
    mixed = run(folder, GptqScheme(group_size=32)).model_copy(update={"format": "awq"})
    with pytest.raises(QuantizationError, match="groups of one size; found 4, 32"):
        planned(folder, mixed)
    whole = mixed.model_copy(update={"scheme": GptqScheme(group_size=4)})
    assert planned(folder, whole).notes == ()
