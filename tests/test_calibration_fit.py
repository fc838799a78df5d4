"""Bits shared out by a budget: the choice, the groups that must agree, the measured errors."""

import itertools
import random

import pytest
import torch
from checkpoints import golden

from danlu.calibration.fitting.candidates import (
    SMALLER,
    USUAL,
    dividing,
    group_size,
    stored_bytes,
)
from danlu.calibration.fitting.groups import groups_of_layers
from danlu.calibration.fitting.knapsack import Option, least_cost, least_harm
from danlu.config.quantize.scheme import QuantScheme
from danlu.loading import decoder_from_config
from danlu.loading.building import read_json
from danlu.quantize.formats.compressed_tensors import FORMAT
from danlu.quantize.rtn import quantize_rtn


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
        for size in (rng.randrange(10**6, 10**7) for _ in range(100))
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


@pytest.mark.parametrize("scheme", [*USUAL[:2], QuantScheme(bits=4, group_size=16)])
def test_bytes_are_those_of_the_file(scheme: QuantScheme) -> None:
    weight = torch.randn(48, 96).to(torch.bfloat16)
    grid = quantize_rtn(weight, scheme)
    layers = {"weights": {"num_bits": 4, "symmetric": scheme.symmetric, "strategy": "group"}}
    config = {"format": "pack-quantized", "config_groups": {"group_0": layers}}
    parts = FORMAT.encode(grid, config)
    found = stored_bytes(weight.shape, scheme, 2)
    assert found == sum(part.nbytes for part in parts.values())
    assert stored_bytes(weight.shape, None, 2) == weight.nbytes


def test_groups_that_do_not_divide_are_not_offered() -> None:
    offered = dividing([*USUAL, *SMALLER], [96, 192])
    assert {group_size(scheme) for scheme in offered} == {None, 32}
