"""Our loop beside a plain loop over stock transformers and peft, where stored runs say nothing.

What decays is what transformers' `Trainer` lets decay.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_close, tiny_checkpoint
from test_adapters_stock import quiet, stock
from torch import Tensor

from danlu.config.train import TrainOptions
from danlu.data.batch import IGNORE, Batch
from danlu.loading import load_decoder, train_only
from danlu.models.decoder import Decoder
from danlu.train.loop import METRICS, Job, train
from danlu.train.metrics import read_metrics
from danlu.train.objective import CausalLM
from danlu.train.precision import Masters

__all__ = ["quiet"]  # a fixture, used by every test here
OPTIONS = TrainOptions(
    steps=5, learning_rate=2e-2, schedule="constant", weight_decay=0.3, max_grad_norm=0.5
)
IDS = torch.randint(200, (OPTIONS.steps or 0, 2, 3), generator=torch.Generator().manual_seed(4))


class Steps:
    """One batch per step, of rows without padding."""

    def __init__(self) -> None:
        self.step = 0

    def next_step(self) -> list[Batch]:
        ids = IDS[self.step]
        self.step += 1
        targets = torch.cat((ids[:, 1:], torch.full((2, 1), IGNORE)), dim=1)
        return [Batch(ids, targets, torch.zeros_like(ids), 4)]

    def num_tokens(self) -> int:
        return IDS[0].numel()

    def origins(self) -> list[str]:
        return []

    def cursor(self) -> dict[str, int]:
        return {"step": self.step}

    def seek(self, cursor: Any) -> None:
        self.step = cursor["step"]


def stock_losses(model: Any) -> list[float]:
    from transformers import Trainer

    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    names = Trainer.get_decay_parameter_names(None, model)  # type: ignore[arg-type]
    decaying = trained.keys() & set(names)
    groups = [
        {"params": [trained[name] for name in decaying], "weight_decay": OPTIONS.weight_decay},
        {"params": [p for name, p in trained.items() if name not in decaying], "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=OPTIONS.learning_rate, betas=OPTIONS.betas)
    losses = []
    for ids in IDS:
        loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), OPTIONS.max_grad_norm or 0.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def our_losses(decoder: Decoder, folder: Path) -> list[float]:
    steps = OPTIONS.steps or 0
    train(Job(decoder, Masters(decoder), CausalLM(), Steps(), [], OPTIONS, steps, 0), folder)
    return [record["loss"] for record in read_metrics(folder / METRICS)]


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    found = model(IDS[0])
    return found if isinstance(found, Tensor) else found.logits


def adapter(kind: str) -> Any:
    from peft import IA3Config, LoraConfig

    targets = ["k_proj", "down_proj"]
    if kind == "ia3":
        return IA3Config(
            task_type="CAUSAL_LM", target_modules=targets, feedforward_modules=["down_proj"]
        )
    options = {"use_dora": True} if kind == "dora" else {"init_lora_weights": kind}
    return LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=targets, **options)


@pytest.mark.parametrize("kind", ["dora", "ia3", "pissa"])
def test_adapters_of_stock_tools_are_trained_as_there(kind: str, tmp_path: Path) -> None:
    from peft import get_peft_model

    base = tiny_checkpoint(tmp_path / "base")
    torch.manual_seed(0)
    model = get_peft_model(stock(base), adapter(kind))
    model.save_pretrained(tmp_path / "start")
    decoder = load_decoder(base, adapter=tmp_path / "start")
    train_only(decoder)
    assert our_losses(decoder, tmp_path) == pytest.approx(stock_losses(model), rel=1e-5)
    assert_close(logits(decoder), logits(model.eval()), 1e-4)


def test_experts_that_no_token_chose_decay_as_in_stock_tools(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", "qwen3_moe")
    model, decoder = stock(base), load_decoder(base)
    assert our_losses(decoder, tmp_path) == pytest.approx(stock_losses(model), rel=1e-4)
    assert_close(logits(decoder), logits(model), 1e-3)
