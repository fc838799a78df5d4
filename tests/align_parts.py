"""A small world to align in: a tokenizer, a model, pairs and labelled answers."""

import json
from pathlib import Path
from typing import Any

import torch

from danlu.config.adapter import LoraConfig
from danlu.config.align import AlignData, AlignRun
from danlu.config.model import ModelShape
from danlu.config.train import TrainOptions
from danlu.loading import new_decoder, save_decoder
from danlu.tokenizer import train_bpe

SHAPE = ModelShape(
    hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, max_seq_len=128
)
POLITE, RUDE = "With pleasure, {}.", "No, go away {}!"
CHINESE = ("好的，我来帮你{}。", "不行，走开{}！")


def pairs() -> list[dict[str, Any]]:
    """Return rows in English and Chinese, of which some have a history."""
    rows: list[dict[str, Any]] = []
    for i in range(12):
        good, bad = CHINESE if i % 3 == 0 else (POLITE, RUDE)
        past = [{"role": "user", "content": f"Hello {i}"}, {"role": "assistant", "content": "Hi"}]
        prompt = [*(past if i % 4 == 0 else []), {"role": "user", "content": f"Help me {i}"}]
        rows.append({"prompt": prompt, "chosen": good.format(i), "rejected": bad.format(i)})
    return rows


def labelled() -> list[dict[str, Any]]:
    """Return the same answers with labels."""
    return [
        {
            "messages": [*row["prompt"], {"role": "assistant", "content": row[key]}],
            "label": key == "chosen",
        }
        for row in pairs()
        for key in ("chosen", "rejected")
    ]


def write_world(folder: Path) -> Path:
    """Write a model with its tokenizer, `pairs.jsonl` and `labelled.jsonl`; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("pairs", pairs()), ("labelled", labelled())):
        write_rows(folder / f"{name}.jsonl", rows)
    texts = [text.format(i) for i in range(12) for text in (POLITE, RUDE, *CHINESE)]
    tokenizer = train_bpe(texts, 300)
    decoder = new_decoder(SHAPE, tokenizer.vocab_size)
    decoder.init_weights(torch.Generator().manual_seed(0))
    save_decoder(decoder, folder / "model")
    tokenizer.save(folder / "model")
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON Lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def align_run(world: Path, out: Path, rows: str = "pairs", **changes: Any) -> AlignRun:
    """Return a short run in the world; keywords replace its sections."""
    values: dict[str, Any] = {
        "out": str(out),
        "seed": 1,
        "model": str(world / "model"),
        "data": align_data(world, rows),
        "adapter": LoraConfig(lora_rank=2),
        "train": align_options(),
    }
    return AlignRun(**values | changes)


def align_data(world: Path, rows: str = "pairs", **changes: Any) -> AlignData:
    """Return the data section, evaluated on the same rows."""
    path = str(world / f"{rows}.jsonl")
    values: dict[str, Any] = {"preferences": path, "held_out": path, "max_seq_len": 100}
    return AlignData(**values | changes)


def align_options(**changes: Any) -> TrainOptions:
    """Return options of four steps."""
    values: dict[str, Any] = {
        "steps": 4,
        "micro_batch_size": 2,
        "global_batch_size": 4,
        "learning_rate": 1e-2,
        "save_every_steps": 2,
    }
    return TrainOptions(**values | changes)
