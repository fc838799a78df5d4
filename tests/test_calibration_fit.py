"""Bits shared out by a budget: the choice, the groups that must agree, the measured errors."""

import itertools
import json
import random
from pathlib import Path

import pytest
import torch
from checkpoints import golden
from torch import Tensor

from danlu.calibration.fitting.candidates import (
    SMALLER,
    USUAL,
    dividing,
    group_size,
    stored_bytes,
    stored_parts,
)
from danlu.calibration.fitting.fit import fit_run
from danlu.calibration.fitting.groups import groups_of_layers
from danlu.calibration.fitting.knapsack import Option, least_cost, least_harm
from danlu.calibration.fitting.measuring import Survey
from danlu.calibration.walk import quantize_decoder
from danlu.commands.quantize import run_quantize
from danlu.config.data import sources
from danlu.config.quantize.run import (
    CalibrationData,
    Fit,
    Override,
    QuantizeReporting,
    QuantizeRun,
)
from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import OutputError, QuantizationError
from danlu.files import size_text
from danlu.loading import decoder_from_config, load_decoder, save_decoder
from danlu.loading.building import read_json
from danlu.models.decoder import Decoder
from danlu.progress import Silent
from danlu.quantize.formats.compressed_tensors import FORMAT
from danlu.quantize.rounding.rtn import quantize_rtn


def drawn_items(rng: random.Random, count: int) -> list[list[Option]]:
    return [
        [Option(rng.randrange(1, 30), rng.random()) for _ in range(rng.randrange(1, 5))]
        for _ in range(count)
    ]


def harm_of(items: list[list[Option]], chosen: tuple[int, ...]) -> float:
    return sum(options[i].harm for options, i in zip(items, chosen, strict=True))


def cost_of(items: list[list[Option]], chosen: tuple[int, ...]) -> int:
    return sum(options[i].cost for options, i in zip(items, chosen, strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    rng = random.Random(seed)
    items = drawn_items(rng, 1 + seed % 6)
    budget = rng.randrange(5, 120)
    every = itertools.product(*(range(len(options)) for options in items))
    allowed = [chosen for chosen in every if cost_of(items, chosen) <= budget]
    found = least_harm(items, budget)
    if not allowed:
        assert found is None
        assert budget < least_cost(items)
        return
    assert found is not None
    assert cost_of(items, tuple(found)) <= budget
    least = min(harm_of(items, chosen) for chosen in allowed)
    assert harm_of(items, tuple(found)) == pytest.approx(least, rel=1e-12)


def test_many_layers_of_odd_sizes_stay_within_the_bound() -> None:
    rng = random.Random(0)
    items = [
        [Option(bits * size, rng.random() / bits**2) for bits in (3, 4, 5, 8, 16)]
        for size in (rng.randrange(10**6, 10**7) for _ in range(60))
    ]
    budget = least_cost(items) * 2
    states = 4000
    found, exact = least_harm(items, budget, states), least_harm(items, budget, 2**20)
    smaller = least_harm(items, budget - budget * len(items) // states, 2**20)
    assert found is not None
    assert exact is not None
    assert smaller is not None
    harm = harm_of(items, tuple(found))
    assert harm_of(items, tuple(exact)) <= harm <= harm_of(items, tuple(smaller))
    assert 0.98 * budget <= cost_of(items, tuple(found)) <= budget


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen2", ["q_proj k_proj v_proj", "o_proj", "gate_proj up_proj", "down_proj"]),
        ("bloom", ["q_proj k_proj v_proj", "o_proj", "up_proj", "down_proj"]),
        ("chatglm2-6b", ["q_proj k_proj v_proj", "o_proj", "gate_proj up_proj", "down_proj"]),
        ("qwen3_moe", ["q_proj k_proj v_proj", "o_proj", "gate_proj up_proj down_proj"]),
    ],
)
def test_layers_that_engines_fuse_are_in_one_group(family: str, expected: list[str]) -> None:
    decoder = decoder_from_config(read_json(golden(family) / "config.json"))
    groups = groups_of_layers(decoder)
    first = [group for group in groups if group[0].startswith("model.layers.1.")]
    lasts = [dict.fromkeys(name.rpartition(".")[2] for name in group) for group in first]
    assert [" ".join(names) for names in lasts] == expected
    inside = [name for name, _ in decoder.linears() if name.startswith("model.layers.")]
    assert sorted(itertools.chain(*groups)) == sorted(inside)


@pytest.mark.parametrize(
    "scheme", [QuantScheme(bits=8), QuantScheme(bits=4), QuantScheme(bits=4, group_size=16)]
)
def test_bytes_are_those_of_the_file(scheme: QuantScheme) -> None:
    weight = torch.randn(48, 96).to(torch.bfloat16)
    grid = quantize_rtn(weight, scheme)
    layers = {"weights": {"num_bits": 4, "symmetric": scheme.symmetric, "strategy": "group"}}
    config = {"format": "pack-quantized", "config_groups": {"group_0": layers}}
    parts = FORMAT.encode(grid, config)
    found = stored_bytes(weight.shape, scheme, 2)
    assert sorted(stored_parts(scheme)) == sorted(parts)
    assert found == sum(part.nbytes for part in parts.values())
    assert stored_bytes(weight.shape, None, 2) == weight.nbytes


def test_groups_that_do_not_divide_are_not_offered() -> None:
    offered = dividing([*USUAL, *SMALLER], [96, 192])
    assert {(s.bits, group_size(s)) for s in offered} == {(8, None), (4, 32), (3, 32), (2, 32)}
    rows = dividing([*USUAL, *SMALLER], [96, 80])
    assert {(s.bits, group_size(s)) for s in rows} == {(8, None), (4, None), (3, None)}


FOLDER = golden("qwen2")
SIZE = (FOLDER / "model.safetensors").stat().st_size


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(96) for _ in range(24)] for _ in range(8)]


def run_with(share: float, **changes: object) -> QuantizeRun:
    fit = Fit(bytes=int(share * SIZE), cache_tokens=8)
    return QuantizeRun(model=str(FOLDER), out="out", fit=fit, device="cpu", **changes)


def file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_the_written_model_fits_and_fused_layers_agree(
    rows: list[list[int]], tmp_path: Path
) -> None:
    fitted = fit_run(FOLDER, run_with(0.44), rows, tmp_path / "fit", Silent())
    quantized = quantize_decoder(FOLDER, fitted.run, rows, tmp_path / "blocks", Silent())
    save_decoder(quantized.decoder, tmp_path / "out", quant_format=fitted.run.format)
    written, budget = file_bytes(tmp_path / "out"), fitted.budget
    assert budget.cache == 8 * 4 * 2 * 2 * 12  # tokens, bytes, layers, keys and values, numbers
    assert written <= fitted.weight_bytes <= 1.01 * written
    assert 0.98 * budget.total <= written + budget.cache <= budget.total
    layers = dict(load_decoder(tmp_path / "out").linears())
    bits = {name: getattr(layer, "bits", 16) for name, layer in layers.items()}
    assert len({bits[name] for name in bits if name.startswith("model.layers.")}) > 1
    assert bits["lm_head"] == 16
    for choice in fitted.choices:
        assert len({bits[name] for name in choice.layers}) == 1


def test_the_error_is_that_of_the_block_alone(rows: list[list[int]], tmp_path: Path) -> None:
    fitted = fit_run(FOLDER, run_with(0.44), rows, tmp_path, Silent())
    [found] = [c for c in fitted.choices if c.layers == ("model.layers.0.mlp.down_proj",)]
    assert found.scheme == QuantScheme(bits=8)
    decoder = load_decoder(FOLDER)
    judging = torch.tensor(rows[::4])
    exact = states_after_first_block(decoder, judging)
    down = decoder.get_submodule(found.layers[0])
    down.weight.data = quantize_rtn(down.weight.data, found.scheme).dequantize()
    after = states_after_first_block(decoder, judging)
    assert found.error == pytest.approx(float((after - exact).norm() / exact.norm()), rel=1e-3)


@torch.no_grad()
def states_after_first_block(decoder: Decoder, ids_BT: Tensor) -> Tensor:
    model = decoder.model
    positions_BT, attn = decoder.sequence_rule().context(ids_BT, None, None)
    x_BTD = model.enter(model.embed_tokens(ids_BT), positions_BT)
    rotation = model.position_scheme.rotation(positions_BT, x_BTD.dtype)
    out: Tensor = decoder.blocks()[0](x_BTD, rotation, attn)
    return out


def test_what_the_run_decides_stays(rows: list[list[int]], tmp_path: Path) -> None:
    override = Override(match="*.1.mlp.*", scheme=QuantScheme(bits=8))
    run = run_with(0.7, skip=["*.o_proj"], overrides=[override])
    fitted = fit_run(FOLDER, run, rows, tmp_path, Silent())
    chosen = {name for choice in fitted.choices for name in choice.layers}
    assert not any(name.endswith("o_proj") or ".1.mlp." in name for name in chosen)
    assert fitted.run.overrides[0] == override
    assert fitted.used <= 1


def test_measuring_goes_on_where_it_was_left(
    rows: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit_run(FOLDER, run_with(0.44), rows, tmp_path / "whole", Silent())
    first = Survey._of_block

    def killed(self: Survey, index: int, groups: object) -> object:
        if index == 1:
            raise KeyboardInterrupt
        return first(self, index, groups)

    monkeypatch.setattr(Survey, "_of_block", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_run(FOLDER, run_with(0.44), rows, tmp_path / "fit", Silent())
    measured = []
    monkeypatch.setattr(
        Survey, "_of_block", lambda self, i, groups: measured.append(i) or first(self, i, groups)
    )
    again = fit_run(FOLDER, run_with(0.44), rows, tmp_path / "fit", Silent())
    assert measured == [1]
    assert again.choices == whole.choices
    with pytest.raises(OutputError, match="another run"):
        fit_run(FOLDER, run_with(0.44), rows[1:], tmp_path / "fit", Silent())


@pytest.mark.parametrize(
    ("share", "changes", "message"),
    [
        (0.3, {}, "smallest that it gets is .* keys and values in 8 bits save"),
        (1.1, {}, "fits into .* as it is"),
        (0.5, {"scheme": QuantScheme(method="nf4")}, "nf4 gives numbers"),
        (0.5, {"format": "gptq"}, "format gptq holds layers of one kind"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_one_error(
    share: float, changes: dict[str, object], message: str, rows: list[list[int]], tmp_path: Path
) -> None:
    with pytest.raises(QuantizationError, match=message):
        fit_run(FOLDER, run_with(share, **changes), rows, tmp_path, Silent())
    assert not list(tmp_path.iterdir())


def test_three_bits_and_the_head_come_last(rows: list[list[int]], tmp_path: Path) -> None:
    roomy = fit_run(FOLDER, run_with(0.44), rows, tmp_path / "roomy", Silent())
    tight = fit_run(FOLDER, run_with(0.385), rows, tmp_path / "tight", Silent())
    fewest = [min(c.scheme.bits for c in f.choices if c.scheme) for f in (roomy, tight)]
    assert fewest[0] == 4 > fewest[1]


def test_the_command_fits_and_reports_what_it_chose(tiny_tour: Path, tmp_path: Path) -> None:
    model, out = tiny_tour / "model", tmp_path / "out"
    run = QuantizeRun(
        model=str(model),
        out=str(out),
        calibration=CalibrationData(
            sources=sources(tiny_tour / "world" / "instructions.jsonl"), samples=8, max_tokens=64
        ),
        fit=Fit(bytes=int(0.62 * file_bytes(model)), cache_tokens=16),
        report=QuantizeReporting(speed=False, samples=2),
    )
    report = run_quantize(run)
    told = json.loads((out / "quantization_report.json").read_text())["fit"]
    layers = [name for choice in told["choices"] for name in choice["layers"]]
    assert len(layers) == len(set(layers)) == len(list(load_decoder(out).linears())) - 1
    cost = file_bytes(out) + told["cache_bytes"]
    assert 0.98 * run.fit.bytes <= cost <= run.fit.bytes
    assert "What fits" in (out / "quantization_report.html").read_text()
    fits = size_text(told["weight_bytes"] + told["cache_bytes"])
    assert dict(report.rows())["fits"].startswith(fits)
    assert json.loads((out / "run.json").read_text())["config"]["overrides"] == []
