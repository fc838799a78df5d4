"""The tour's numbers: sizes, steps, learning rates. Tuned for two CPU cores and a few minutes.

The plan is made once, when a tour begins, and is stored in its folder: a tour that goes on follows
the same plan.
"""

import statistics
import tempfile
from pathlib import Path

from pydantic import Field

from danlu.commands.pretrain import run_pretrain
from danlu.commands.tokenizer import train_tokenizer
from danlu.commands.tour.options import TourOptions
from danlu.config.adapter import LoraConfig
from danlu.config.base import Config
from danlu.config.data import PretrainData, sources
from danlu.config.model import ModelShape
from danlu.config.run import PretrainRun
from danlu.config.train import TrainOptions
from danlu.data.tiny_world import write_world
from danlu.train.metrics import read_metrics

TRAINING_SHARE = 0.65  # of the minutes; the rest measures, evaluates and writes
MEASURED_STEPS = 6
LEAST_STEPS = 20


class TourPlan(Config):
    """Every number of a tour."""

    num_stories: int = Field(20_000, ge=1, description="documents of the tiny world")
    num_held_out: int = Field(400, ge=1, description="documents that are only evaluated on")
    num_instructions: int = Field(6_000, ge=1, description="conversations to fine-tune on")
    num_test: int = Field(200, ge=1, description="held-out instructions to evaluate on")
    vocab_size: int = Field(832, ge=259, description="tokens of the tokenizer")
    max_seq_len: int = Field(128, ge=8, description="tokens per packed row")
    model: ModelShape = Field(description="sizes of the model")
    pretrain: TrainOptions = Field(description="how it learns the raw text")
    adapter: LoraConfig = Field(description="the adapter of fine-tuning")
    finetune: TrainOptions = Field(description="how it learns the instructions")


def default_plan() -> TourPlan:
    """Return the plan of a tour without `--minutes`."""
    return TourPlan(
        model=ModelShape(
            hidden_size=256,
            intermediate_size=704,
            num_layers=3,
            num_heads=4,
            num_kv_heads=2,
            max_seq_len=512,
        ),
        # Many small steps: what this model learns depends on their number more than on their size.
        pretrain=TrainOptions(
            steps=2800,
            micro_batch_size=6,
            global_batch_size=6,
            learning_rate=3e-3,
            min_lr_ratio=0.02,
            warmup_steps=100,
            eval_every_steps=400,
            save_every_steps=400,
            precision="bf16",
            save_dtype="fp32",
        ),
        adapter=LoraConfig(lora_rank=32, lora_alpha=64.0),
        finetune=TrainOptions(
            steps=700,
            micro_batch_size=6,
            global_batch_size=6,
            learning_rate=2e-3,
            min_lr_ratio=0.02,
            warmup_steps=30,
            weight_decay=0.0,
            eval_every_steps=175,
            save_every_steps=175,
            precision="bf16",
        ),
    )


def plan_tour(options: TourOptions) -> TourPlan:
    """Return the plan for some options; with `minutes` this measures the machine for seconds."""
    plan = default_plan()
    if options.minutes is None:
        return plan
    return scaled_plan(plan, 60 * options.minutes, measured_step_seconds(plan))


def scaled_plan(plan: TourPlan, seconds: float, step_seconds: float) -> TourPlan:
    """Return the plan with as many steps as the time allows, both phases in proportion.

    Args:
        plan: the usual plan.
        seconds: for the whole tour.
        step_seconds: of one optimizer step on this machine.
    """
    usual = (plan.pretrain.steps or 0) + (plan.finetune.steps or 0)
    factor = TRAINING_SHARE * seconds / (usual * step_seconds)
    return plan.model_copy(
        update={
            "pretrain": _scaled_options(plan.pretrain, factor),
            "finetune": _scaled_options(plan.finetune, factor),
        }
    )


def _scaled_options(options: TrainOptions, factor: float) -> TrainOptions:
    steps = max(LEAST_STEPS, round((options.steps or 0) * factor))
    every = max(1, steps // 7)
    changed = {
        "steps": steps,
        "warmup_steps": min(options.warmup_steps, steps // 10),
        "eval_every_steps": every,
        "save_every_steps": every,
    }
    return options.model_copy(update=changed)


def measured_step_seconds(plan: TourPlan) -> float:
    """Return the seconds of one optimizer step of pre-training, by a short pre-training."""
    with tempfile.TemporaryDirectory(prefix="danlu-measure-") as name:
        folder = Path(name)
        world = write_world(folder / "world", 0, 600, 1, 1, 1)
        train_tokenizer([world.corpus], folder / "tokenizer", plan.vocab_size)
        run = PretrainRun(
            out=str(folder / "pretrain"),
            model=plan.model,
            tokenizer=str(folder / "tokenizer"),
            data=PretrainData(
                corpus=sources(world.corpus),
                max_seq_len=plan.max_seq_len,
                cache=str(folder / "encoded"),
            ),
            train=plan.pretrain.model_copy(update={"steps": MEASURED_STEPS, "warmup_steps": 0}),
        )
        run_pretrain(run)
        lines = read_metrics(folder / "pretrain" / "metrics.jsonl")
    # The first steps also pay for what torch sets up once.
    return statistics.median(line["tokens"] / line["tokens_per_s"] for line in lines[2:])
