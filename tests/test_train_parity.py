"""Our loop replays runs of stock tools: `interop/train-*` and `interop/packing-*`.

Written by transformers 5.23.0 and peft 0.21.2; tolerances and conventions are in each about.json.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from danlu.config.train import TrainOptions
from danlu.data.batch import IGNORE, PADDING, Batch
from danlu.loading import load_adapter, load_decoder, save_adapter, save_decoder
from danlu.models.decoder import Decoder
from danlu.nn.packing import PackedContext
from danlu.train.loop import METRICS, Job, train
from danlu.train.metrics import read_metrics
from danlu.train.objective import CausalLM
from danlu.train.precision import Masters

HERE = Path(__file__).parent
CASES = sorted(path.name for path in (HERE / "interop").glob("train-*"))


class Replay:
    """The micro-batches that the reference run saw, step by step."""

    def __init__(self, expected: Mapping[str, Tensor]) -> None:
        self.expected = expected
        self.step = 0

    def next_step(self) -> list[Batch]:
        names = ("input_ids", "labels", "attention_mask")
        micros = zip(*(self.expected[name][self.step] for name in names), strict=True)
        self.step += 1
        return [_batch(ids, labels, mask) for ids, labels, mask in micros]

    def num_tokens(self) -> int:
        return int(self.expected["attention_mask"][self.step - 1].sum())

    def origins(self) -> list[str]:
        return []

    def cursor(self) -> dict[str, int]:
        return {"step": self.step}

    def seek(self, cursor: Mapping[str, int]) -> None:
        self.step = cursor["step"]


def _batch(ids: Tensor, labels: Tensor, mask: Tensor) -> Batch:
    targets = torch.full_like(labels, IGNORE)
    targets[:, :-1] = labels[:, 1:]
    documents = torch.where(mask.bool(), 0, PADDING)
    return Batch(ids, targets, documents, int((targets != IGNORE).sum()))


def start(case: Path) -> tuple[Decoder, Masters]:
    about = json.loads((case / "about.json").read_text())
    decoder = load_decoder(HERE / "golden-small" / Path(about["base"]).name)
    if (case / "adapter_init").is_dir():
        decoder.requires_grad_(False)
        load_adapter(decoder, case / "adapter_init")
    return decoder, Masters(decoder)


def options(case: Path) -> TrainOptions:
    about = json.loads((case / "about.json").read_text())["hyperparameters"]
    rows = about["micro_batch"]
    return TrainOptions(
        steps=about["optimizer_steps"],
        micro_batch_size=rows,
        global_batch_size=rows * about["gradient_accumulation"],
        learning_rate=about["peak_learning_rate"],
        **{key: about[key] for key in ("betas", "eps", "weight_decay", "warmup_steps")},
        **{key: about[key] for key in ("min_lr_ratio", "max_grad_norm")},
    )


def test_all_runs_are_replayed() -> None:
    families = ("bloom", "llama", "qwen2")
    assert [f"train-{kind}-{family}" for kind in ("full", "lora") for family in families] == CASES


@pytest.mark.parametrize("name", CASES)
def test_replays_the_reference_run(name: str, tmp_path: Path) -> None:
    case = HERE / "interop" / name
    expected = load_file(case / "expected.safetensors")
    decoder, masters = start(case)
    train_options = options(case)
    job = Job(
        decoder,
        masters,
        CausalLM(),
        Replay(expected),
        [],
        train_options,
        train_options.steps or 0,
        0,
    )
    train(job, tmp_path)

    records = read_metrics(tmp_path / METRICS)
    found = {
        key: torch.tensor([r[key] for r in records], dtype=torch.float64) for key in records[0]
    }
    for key, rtol, atol in (("loss", 1e-4, 0), ("grad_norm", 1e-3, 0), ("learning_rate", 0, 1e-9)):
        torch.testing.assert_close(found[key], expected[key].double(), rtol=rtol, atol=atol)
    assert found["targets"].tolist() == expected["label_tokens"].tolist()
    with torch.no_grad():
        logits = decoder(expected["probe_ids"])
    torch.testing.assert_close(logits, expected["probe_logits"], rtol=0, atol=2e-3)
    compare_weights(case, decoder, expected, tmp_path)


def compare_weights(
    case: Path, decoder: Decoder, expected: Mapping[str, Tensor], folder: Path
) -> None:
    if (case / "adapter").is_dir():
        save_adapter(decoder, folder, "base")
        final, saved = case / "adapter/adapter_model.safetensors", "adapter_model.safetensors"
    else:
        save_decoder(decoder, folder)
        final, saved = case / "final_weights.safetensors", "model.safetensors"
    want, got = load_file(final), load_file(folder / saved)
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        mask = expected.get(f"compare_mask.{name}", torch.ones_like(tensor, dtype=torch.bool))
        torch.testing.assert_close(got[name][mask.bool()], tensor[mask.bool()], rtol=0, atol=2e-4)


@pytest.mark.parametrize("family", ["llama", "bloom", "mistral"])
def test_packed_rows_give_what_documents_give_alone(family: str) -> None:
    expected = load_file(HERE / f"interop/packing-{family}/expected.safetensors")
    decoder = load_decoder(HERE / "golden-small" / family)
    tokens, documents, positions = (
        expected[f"packed.{name}"][None].long() for name in ("input_ids", "doc_ids", "position_ids")
    )
    labels = expected["packed.labels"].long()
    targets = torch.cat([labels[1:], torch.tensor([IGNORE])])[None]
    batch = Batch(tokens, targets, documents, int((targets != IGNORE).sum()))

    loss, count = CausalLM().loss(decoder, batch)
    assert count == expected["packed.label_tokens"]
    torch.testing.assert_close(
        loss.double(), expected["packed.loss_sum"].double(), rtol=1e-5, atol=0
    )
    loss.backward()
    norm = torch.nn.utils.get_total_norm(
        [p.grad for p in decoder.parameters() if p.grad is not None]
    )
    torch.testing.assert_close(
        norm.double(), expected["grad_norm.loss_sum"].double(), rtol=1e-4, atol=0
    )
    if family == "llama":
        weight = expected["grad.loss_sum.weight"]
        found = decoder.get_parameter("model.layers.0.self_attn.q_proj.weight").grad
        torch.testing.assert_close(found, weight, rtol=0, atol=1e-4 * float(weight.abs().max()))

    attn = PackedContext(tokens, documents, decoder.config.sequence_rule)
    assert torch.equal(attn.positions_BT, positions)
    with torch.no_grad():
        logits = decoder.logits(decoder.model(tokens, attn.positions_BT, attn))[0]
    for number in range(3):
        alone = expected[f"doc{number}.logits"]
        bound = 1e-4 * max(1.0, float(alone.abs().max()))
        torch.testing.assert_close(logits[documents[0] == number], alone, rtol=0, atol=bound)
