"""Alignment on real rows, English and Chinese, with a real tiny model: the margin grows."""

from pathlib import Path
from typing import Any

import pytest
from align_parts import align_options

from danlu.commands.align import run_align
from danlu.config.adapter import LoraConfig
from danlu.config.align import AlignData, AlignRun
from danlu.config.objective import DpoConfig, KtoConfig, OrpoConfig, RewardConfig, SimpoConfig
from danlu.train.metrics import read_metrics

ROWS = 6
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: "
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ message.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CASES: dict[str, tuple[str, Any, LoraConfig | None]] = {
    "dpo-en": ("dpo_en_demo", DpoConfig(beta=0.5), LoraConfig()),
    "orpo-zh": ("dpo_zh_demo", OrpoConfig(), LoraConfig()),
    "simpo-zh": ("dpo_zh_demo", SimpoConfig(), None),
    "kto-en": ("kto_en_demo_150", KtoConfig(beta=0.5), LoraConfig()),
    "reward-en": ("dpo_en_demo", RewardConfig(), LoraConfig()),
}


def shortest_rows(file: Path, path: Path) -> Path:
    """Write the shortest rows of a file, since the model is small and the tests are many."""
    lines = sorted(file.read_text(encoding="utf-8").splitlines(), key=len)[:ROWS]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("case", CASES)
def test_margins_grow_on_real_rows(case: str, shared: Path, tmp_path: Path) -> None:
    name, objective, adapter = CASES[case]
    rows = shared / "data/train/preference" / f"{name}.jsonl"
    model = shared / "data/models/stories260K"
    if not (rows.exists() and model.is_dir()):
        pytest.skip("needs real preferences and a real model in shared/")
    template = tmp_path / "plain.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    data = AlignData(
        preferences=str(shortest_rows(rows, tmp_path / "rows.jsonl")),
        max_seq_len=128,
        chat_format=str(template),
    )
    run = AlignRun(
        out=str(tmp_path / "run"),
        model=str(model),
        data=data,
        objective=objective,
        adapter=adapter,
        train=align_options(steps=6, micro_batch_size=ROWS, global_batch_size=ROWS),
    )
    run_align(run)
    steps = read_metrics(tmp_path / "run/metrics.jsonl")
    assert steps[-1]["reward_margin"] > steps[0]["reward_margin"] + 0.01
    assert steps[-1]["loss"] < steps[0]["loss"]
