"""A tour of seconds: every step is real, every size tiny."""

from danlu.commands.tour.plan import TourPlan, default_plan
from danlu.config.model import ModelShape
from danlu.config.train import TrainOptions


def micro_plan() -> TourPlan:
    plan = default_plan()
    return plan.model_copy(
        update={
            "num_stories": 200,
            "num_held_out": 8,
            "num_instructions": 150,
            "num_test": 14,
            "vocab_size": 400,
            "model": ModelShape(
                hidden_size=32,
                intermediate_size=64,
                num_layers=2,
                num_heads=2,
                num_kv_heads=1,
                max_seq_len=512,
            ),
            "pretrain": _few_steps(plan.pretrain, 4),
            "finetune": _few_steps(plan.finetune, 3),
        }
    )


def _few_steps(options: TrainOptions, steps: int) -> TrainOptions:
    changed = {
        "steps": steps,
        "warmup_steps": 1,
        "micro_batch_size": 2,
        "global_batch_size": 2,
        "eval_every_steps": 2,
        "save_every_steps": 2,
    }
    return options.model_copy(update=changed)
