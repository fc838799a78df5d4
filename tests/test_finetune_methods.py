"""Every method of `danlu finetune` on real rows, English and Chinese: it learns, chats and merges.

The model is a real one of 260,000 weights, the rows are those of public data sets.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from danlu.commands.finetune import run_finetune
from danlu.commands.merge import merge
from danlu.config.load import load_config
from danlu.config.run import FinetuneRun
from danlu.engine.llm import LLM
from danlu.engine.sampling import SamplingParams
from danlu.errors import AdapterError
from danlu.train.loop import METRICS
from danlu.train.metrics import read_metrics

ROWS = 8
QUESTION = [{"role": "user", "content": "Name three colors. 说三种颜色。"}]
METHODS: Mapping[str, Mapping[str, Any]] = {
    "full": {"adapter": None},
    "freeze": {"adapter": None, "freeze": {"top_layers": 2, "names": ["model.norm"]}},
    "lora": {"adapter": {}},
    "lora by role": {"adapter": {"targets": ["column"], "layers": [1, 2]}},
    "rank-stabilised": {"adapter": {"rank_stabilized": True, "rank_pattern": {"q_proj": 4}}},
    "dora": {"adapter": {"dora": True}},
    "pissa": {"adapter": {"init": "pissa"}},
    "lora+": {"adapter": {"learning_rate_ratio": 16.0}},
    "lora with token rows": {"adapter": {"token_rows": [1, 2, 29]}},
    "lora (emb)": {"adapter": {"whole": ["embed_tokens", "lm_head"]}},
    "token rows": {"adapter": {"method": "token_rows", "token_rows": list(range(3, 400))}},
    "ia3": {"adapter": {"method": "ia3"}, "train": {"learning_rate": 0.02}},
    "prefix": {"adapter": {"method": "prefix", "num_tokens": 8}},
    "prefix through an MLP": {"adapter": {"method": "prefix", "num_tokens": 8, "projection": True}},
    "prompt": {"adapter": {"method": "prompt", "num_tokens": 8, "init_text": "Answer: "}},
    "q-lora nf4": {"adapter": {}, "quantize": "nf4"},
    "q-lora fp4": {"adapter": {}, "quantize": {"method": "fp4", "double_quant": False}},
    "q-lora int8": {"adapter": {"dora": True}, "quantize": "int8"},
    "q-lora w8a8": {"adapter": {}, "quantize": "w8a8"},
    "q-lora int4 in bf16": {
        "adapter": {},
        "quantize": {"bits": 4, "group_size": -1},
        "train": {"precision": "bf16"},
    },
    "neftune": {"adapter": None, "train": {"neftune_alpha": 5.0}},
    "fp16": {"adapter": {}, "train": {"precision": "fp16"}},
    "bf16, recomputed": {
        "adapter": {},
        "train": {"precision": "bf16", "activation_checkpointing": "full"},
    },
    "adamw8bit": {"adapter": None, "train": {"optimizer": "adamw8bit"}},
    "adafactor": {"adapter": None, "train": {"optimizer": "adafactor"}},
    "muon": {"adapter": None, "train": {"optimizer": "muon", "learning_rate": 0.01}},
    "sgd": {"adapter": None, "train": {"optimizer": "sgd", "learning_rate": 0.1}},
}
NOT_MERGED = ("prefix", "prompt")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """The first short rows of two public sets in one file, in turns."""
    sets = ("alpaca_en_demo.jsonl", "alpaca_zh_demo.jsonl")
    texts = [(shared / "data/train/sft" / name).read_text(encoding="utf-8") for name in sets]
    short = [[line for line in text.splitlines() if len(line.encode()) < 130] for text in texts]
    chosen = [line for pair in zip(*short, strict=False) for line in pair][:ROWS]
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(chosen), encoding="utf-8")
    return path


def run_of(method: str, model: Path, rows: Path, out: Path) -> FinetuneRun:
    train = {
        "steps": 8,
        "micro_batch_size": 4,
        "global_batch_size": 8,
        "learning_rate": 2e-2 if method in NOT_MERGED else 3e-3,
        "weight_decay": 0.0,
    }
    options = dict(METHODS[method])
    values = {
        "out": str(out),
        "model": str(model),
        "data": {
            "instructions": str(rows),
            "max_seq_len": 480,
            "batching": "padded",
            "chat_format": "llama2-chat",
            "workers": 1,
            "cache": str(out.parent / "cache"),
        },
        **options,
        "train": train | dict(options.get("train", {})),
    }
    path = out.parent / "run.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return load_config(FinetuneRun, path)


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_chats_and_merges(method: str, rows: Path, shared: Path, tmp_path: Path) -> None:
    model = shared / "data/models/stories260K"
    run = run_of(method, model, rows, tmp_path / "run")
    result = run_finetune(run)
    losses = [line["loss"] for line in read_metrics(result.folder / METRICS) if "loss" in line]
    assert len(losses) == 8
    assert sum(losses[-3:]) < sum(losses[:3]), losses
    params = SamplingParams(max_tokens=4, temperature=0.0)
    if run.adapter is None:
        assert LLM(result.output).chat(QUESTION, params).token_ids
        return
    quantize = METHODS[method].get("quantize")
    answer = LLM(model, adapter=result.output, quantize=run.quantize).chat(QUESTION, params)
    assert answer.token_ids
    if run.adapter.method in NOT_MERGED:
        with pytest.raises(AdapterError, match="cannot be merged"):
            merge(model, result.output, tmp_path / "merged")
        return
    text = tmp_path / "text.txt"
    text.write_text(
        "Once upon a time there was a little girl. 从前有一个小女孩。", encoding="utf-8"
    )
    report = merge(model, result.output, tmp_path / "merged", text)
    assert report.comparison.kl_mean < 1e-5
    assert (report.dequantized_layers > 0) == (quantize is not None)
    assert (report.exact_inputs > 0) == (quantize == "w8a8")
    merged = LLM(tmp_path / "merged", chat_format="llama2-chat").chat(QUESTION, params)
    assert len(merged.token_ids) == len(answer.token_ids)
