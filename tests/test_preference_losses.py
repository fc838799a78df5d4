"""Preference losses: value, gradient and gradient norm of stock TRL; batches cut at will."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from checkpoints import HERE, assert_close, golden
from safetensors.torch import load_file
from torch import Tensor

from danlu.config.objective import (
    CpoConfig,
    DpoConfig,
    KtoConfig,
    OrpoConfig,
    RewardConfig,
    SimpoConfig,
)
from danlu.data.preferences import AnsweredPrompt, Comparison, Judgement, with_mismatched
from danlu.loading import load_decoder
from danlu.models.decoder import Decoder
from danlu.nn.linear import Linear
from danlu.tokenizer.chat.training import NOT_LEARNED
from danlu.train.objective import Objective, begin_step
from danlu.train.preference.batch import (
    JudgedBatch,
    PairBatch,
    collate_judgements,
    collate_pairs,
    collate_sequences,
)
from danlu.train.preference.contrast import cpo, simpo
from danlu.train.preference.dpo import Dpo, LogRatios, dpop
from danlu.train.preference.kto import Kto
from danlu.train.preference.orpo import Orpo, log_odds_ratio
from danlu.train.preference.reference import Nobody, Other, Stored
from danlu.train.preference.reward import RewardModel, sequence_scores
from danlu.train.preference.scoring import answer_log_probs

CASE = HERE / "interop/preference"
EXPECTED = load_file(CASE / "expected.safetensors")
NAMES = [name.removeprefix("loss.") for name in EXPECTED if name.startswith("loss.")]
PAIRS = 4


@pytest.fixture
def policy() -> Decoder:
    return load_decoder(CASE / "policy")


@pytest.fixture(scope="module")
def reference() -> Decoder:
    return load_decoder(golden("llama"))


def answered(prefix: str = "") -> list[AnsweredPrompt]:
    """The rows of a stored batch without their padding."""
    masks = EXPECTED[f"{prefix}attention_mask"].bool()
    parts = zip(EXPECTED[f"{prefix}input_ids"], EXPECTED[f"{prefix}completion_mask"], strict=True)
    return [
        AnsweredPrompt(
            ids[mask].tolist(),
            torch.where(answer.bool(), ids, NOT_LEARNED)[mask].tolist(),
        )
        for (ids, answer), mask in zip(parts, masks, strict=True)
    ]


def comparisons(margins: Tensor | None = None) -> list[Comparison]:
    rows = answered()
    stated = [None] * PAIRS if margins is None else margins.tolist()
    pairs = zip(rows[:PAIRS], rows[PAIRS:], stated, strict=True)
    return [Comparison(c, r, f"data:{i}", margin) for i, (c, r, margin) in enumerate(pairs)]


def stored_reference() -> list[list[float]]:
    sides = (EXPECTED["ref_chosen_logps"], EXPECTED["ref_rejected_logps"])
    return torch.stack(sides, dim=1).tolist()


def judgements() -> list[Judgement]:
    labels = EXPECTED["kto.label"].tolist()
    rows = zip(answered("kto."), labels, strict=True)
    return with_mismatched([Judgement(row, label, "data:1") for row, label in rows], 64)


OBJECTIVES: dict[str, Any] = {
    "sigmoid_beta0.1": DpoConfig(),
    "sigmoid_beta0.5": DpoConfig(beta=0.5),
    "robust_beta0.1_ls0.1": DpoConfig(loss="robust", label_smoothing=0.1),
    "ipo_beta0.1": DpoConfig(loss="ipo"),
    "ipo_beta0.5": DpoConfig(loss="ipo", beta=0.5),
    "hinge_beta0.5": DpoConfig(loss="hinge", beta=0.5),
    "sppo_hard_beta0.1": DpoConfig(loss="sppo_hard"),
    "nca_pair_beta0.1": DpoConfig(loss="nca_pair"),
    "apo_zero_beta0.1": DpoConfig(loss="apo_zero"),
    "apo_down_beta0.1": DpoConfig(loss="apo_down"),
    "sigmoid_norm_beta0.1": DpoConfig(loss="sigmoid_norm"),
    "discopop_beta0.1": DpoConfig(loss="discopop"),
    "exo_pair_beta0.1_ls0.1": DpoConfig(loss="exo_pair", label_smoothing=0.1),
    "cdpo_beta0.1_ls0.1": DpoConfig(loss="conservative", label_smoothing=0.1),
    "sigmoid+0.2sft_beta0.1": DpoConfig(sft_weight=0.2),
    "simpo_beta2.0_gamma0.5": SimpoConfig(),
    "cpo_beta0.1_alpha1.0": CpoConfig(),
    "orpo_beta0.1": OrpoConfig(),
    "kto_beta0.1": KtoConfig(),
    "kto_beta0.5_w1.0_1.5": KtoConfig(beta=0.5, undesirable_weight=1.5),
    "apo_zero_unpaired_beta0.1": KtoConfig(loss="apo_zero_unpaired"),
    "bradley_terry": RewardConfig(),
    "bradley_terry_margin": RewardConfig(),
    "bradley_terry_center0.01": RewardConfig(center=0.01),
}


def objective_of(name: str, reference: Decoder) -> Objective[Any]:
    config = OBJECTIVES[name]
    if isinstance(config, DpoConfig):
        return Dpo(config, Stored())
    if isinstance(config, KtoConfig):
        return Kto(config, Other(reference))
    if isinstance(config, RewardConfig):
        return RewardModel(config)
    if isinstance(config, SimpoConfig):
        return simpo(config)
    return cpo(config) if isinstance(config, CpoConfig) else Orpo(config)


def batch_of(name: str) -> PairBatch | JudgedBatch:
    if name.startswith("kto"):
        return collate_judgements(judgements())
    if name.startswith("apo_zero_unpaired"):
        return collate_judgements([Judgement(j.answer, j.desirable, "") for j in judgements()])
    margins = EXPECTED["reward_margin"] if name == "bradley_terry_margin" else None
    return collate_pairs(comparisons(margins), stored_reference())


def reward_decoder() -> Decoder:
    decoder = load_decoder(golden("llama"))
    head = Linear(decoder.config.embedding_width, 1)
    head.weight.data.copy_(load_file(CASE / "reward_head.safetensors")["score.weight"])
    decoder.lm_head = head
    return decoder


def test_every_stored_loss_has_its_objective() -> None:
    assert set(NAMES) == {*OBJECTIVES, "sft"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_and_gradients_are_those_of_trl(
    name: str, policy: Decoder, reference: Decoder
) -> None:
    model = reward_decoder() if name.startswith("bradley") else policy
    loss, terms = objective_of(name, reference).loss(model, batch_of(name))
    (loss / terms).backward()
    assert_close((loss / terms).detach(), EXPECTED[f"loss.{name}"])
    if f"grad_norm.{name}" in EXPECTED:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch.testing.assert_close(norm, EXPECTED[f"grad_norm.{name}"], rtol=1e-3, atol=0)
    for key in (key for key in EXPECTED if key.startswith(f"grad.{name}.")):
        gradient = model.get_parameter(key.removeprefix(f"grad.{name}.")).grad
        assert gradient is not None
        assert_close(gradient, EXPECTED[key])


def test_log_probabilities_and_rewards_are_those_of_trl(
    policy: Decoder, reference: Decoder
) -> None:
    sequences = collate_sequences(answered())
    for model, name in ((policy, "policy"), (reference, "ref")):
        chosen, rejected = answer_log_probs(model, sequences).chunk(2)
        assert_close(chosen.detach(), EXPECTED[f"{name}_chosen_logps"])
        assert_close(rejected.detach(), EXPECTED[f"{name}_rejected_logps"])
    chosen, rejected = sequence_scores(reward_decoder(), sequences).chunk(2)
    assert_close(chosen.detach(), EXPECTED["reward_chosen"])
    assert_close(rejected.detach(), EXPECTED["reward_rejected"])


def test_mismatched_answers_and_their_kl_are_those_of_trl(
    policy: Decoder, reference: Decoder
) -> None:
    assert [one.mismatched for one in judgements()] == answered("kto.KL_")
    batch = collate_judgements(judgements())
    assert batch.mismatched is not None
    for model, name in ((policy, "policy"), (reference, "ref")):
        found = answer_log_probs(model, batch.mismatched).detach()
        assert_close(found, EXPECTED[f"kto.{name}_KL_logps"])
    objective = Kto(KtoConfig(), Other(reference))
    objective.loss(policy, batch)
    wanted = float(EXPECTED["kl.kto_beta0.1"])
    assert objective.take_metrics()["kl"] == pytest.approx(wanted, abs=1e-4)
    other_way = Kto(KtoConfig(), Other(policy))
    other_way.loss(reference, batch)
    assert other_way.take_metrics()["kl"] == 0 < wanted


@pytest.mark.parametrize(
    "name",
    [
        "sigmoid+0.2sft_beta0.1",
        "ipo_beta0.1",
        "simpo_beta2.0_gamma0.5",
        "cpo_beta0.1_alpha1.0",
        "orpo_beta0.1",
        "kto_beta0.5_w1.0_1.5",
        "bradley_terry_center0.01",
    ],
)
def test_the_step_does_not_depend_on_the_micro_batches(
    name: str, policy: Decoder, reference: Decoder
) -> None:
    model = reward_decoder() if name.startswith("bradley") else policy
    results = []
    for size in (1, 2, 4):
        model.zero_grad()
        objective = objective_of(name, reference)
        loss, terms = step(objective, model, parts_of(name, size))
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        metrics = objective.take_metrics()  # type: ignore[attr-defined]
        results.append((loss, terms, metrics, gradients))
    for loss, terms, metrics, gradients in results[1:]:
        assert terms == results[0][1]
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert metrics == pytest.approx(results[0][2], rel=1e-4, abs=1e-6)
        for found, wanted in zip(gradients, results[0][3], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def step(objective: Objective[Any], model: Decoder, batches: Sequence[Any]) -> tuple[float, int]:
    begin_step(objective, model, batches)
    results = [objective.loss(model, batch) for batch in batches]
    total = torch.stack([loss for loss, _ in results]).sum()
    total.backward()
    return float(total.detach()), sum(int(terms) for _, terms in results)


def parts_of(name: str, size: int) -> list[Any]:
    if name.startswith("kto"):
        rows = judgements()
        return [collate_judgements(rows[i : i + size]) for i in range(0, len(rows), size)]
    pairs, known = comparisons(), stored_reference()
    starts = range(0, PAIRS, size)
    return [collate_pairs(pairs[i : i + size], known[i : i + size]) for i in starts]


def test_dpop_holds_up_falling_chosen_answers() -> None:
    c, r = torch.tensor([-0.3, 0.4]), torch.tensor([0.1, -0.2])
    found = dpop(LogRatios(c, r, c, c), DpoConfig(loss="dpop", dpop_lambda=5.0, beta=0.2))
    z = torch.tensor([0.2 * (-0.4 - 5.0 * 0.3), 0.2 * 0.6])
    torch.testing.assert_close(found, torch.log1p((-z).exp()))


def test_reference_free_compares_with_equal_likelihood(policy: Decoder) -> None:
    loss, _ = Dpo(DpoConfig(), Nobody()).loss(policy, collate_pairs(comparisons()))
    z = 0.1 * (EXPECTED["policy_chosen_logps"] - EXPECTED["policy_rejected_logps"])
    assert_close(loss.detach(), -torch.nn.functional.logsigmoid(z).sum())


def test_an_answer_that_is_certain_has_finite_odds() -> None:
    chosen = torch.tensor([0.0], requires_grad=True)
    log_odds_ratio(chosen, torch.tensor([-1.0])).sum().backward()
    assert chosen.grad is not None
    assert bool(torch.isfinite(chosen.grad).all())


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing would do nothing"),
        ({"loss": "robust"}, "robust needs label_smoothing"),
        ({"loss": "ipo", "dpop_lambda": 5.0}, "dpop_lambda would do nothing"),
        ({"discopop_tau": 0.1}, "discopop_tau would do nothing"),
    ],
)
def test_an_option_that_would_do_nothing_is_an_error(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DpoConfig(**values)
