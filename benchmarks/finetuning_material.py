"""Makes what fine-tuning starts from: a random Qwen2 with a tokenizer, and its data, encoded once.

    model/            a checkpoint in bf16, with the tokenizer as stock tools read it
    documents.npz     `ids` and `labels` of all conversations, one after the other; `ends` of each
    messages.jsonl    the conversations as rows of `messages`, one after the other, some times over
    about.json        what it is: parameters, control tokens, conversations, tokens

The documents are those that `danlu finetune` makes of the sources, shortened to the row length by
its rules; they are for stacks that do not read the sources themselves. Works in a process of its
own, so that the parent of measured processes stays small.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.facts import ROOT
from benchmarks.worker import options_of_worker

SEED = 0
SFT = ROOT.parent / "shared" / "data" / "train" / "sft"
TOKENIZER = ROOT.parent / "shared" / "data" / "tokenizers" / "qwen2"
FILES = ("alpaca_en_demo.jsonl", "alpaca_zh_demo.jsonl", "aquila_convo_samples.jsonl")
TINY_CONVERSATIONS, TINY_VOCABULARY = 60, 300
ROW_STEP = 128  # rows of the embedding are a multiple of it
SHAPES: dict[str, dict[str, Any]] = {
    "0.1b": {  # 0.09 B in its layers
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 14,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
    "0.5b": {  # Qwen2-0.5B's
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


def add_material_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose data and tokenizer."""
    known = SFT.is_dir() and TOKENIZER.is_dir()
    parser.add_argument(
        "--data", type=Path, default=SFT if known else None, help=f"folder with {', '.join(FILES)}"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=TOKENIZER if known else None,
        help="folder of a tokenizer, named like its family",
    )
    parser.add_argument("--chat-format", default="chatml", help="built-in format of that tokenizer")


def sources_of(folder: Path, data: Path | None) -> list[dict[str, Any]]:
    """Return the sources of a run: the real files, or the tiny world's conversations."""
    if data is None:
        return [{"path": str(folder / "instructions.jsonl")}]
    return [{"path": str(data / name), "mend": True} for name in FILES]


def make_material(folder: Path, options: argparse.Namespace, **about: Any) -> dict[str, Any]:
    """Make the folder in another process; return what it is, and its sources.

    Args:
        folder: is replaced.
        options: those of `add_material_options`, and --tiny.
        **about: `shape`, `tied`, `max_seq_len`, and `repeat`, how often messages come.
    """
    real = not options.tiny
    values = {
        "folder": str(folder),
        "sources": sources_of(folder, options.data if real else None),
        "tokenizer": str(options.tokenizer) if real and options.tokenizer else None,
        "chat_format": options.chat_format,
        **about,
    }
    command = [sys.executable, "-m", "benchmarks.finetuning_material", json.dumps(values)]
    subprocess.run(command, cwd=ROOT, check=True)
    told: dict[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return {**told, "sources": values["sources"]}


def write_material(
    folder: str,
    sources: list[dict[str, Any]],
    tokenizer: str | None,
    chat_format: str,
    shape: str,
    tied: bool,
    max_seq_len: int,
    repeat: int = 1,
) -> None:
    """Write model, tokenizer, data and documents."""
    from danlu.adapters.token_ids import control_ids
    from danlu.data.tiny_world import TinyWorld, write_world
    from danlu.files import atomic_folder, write_json
    from danlu.loading import load_tokenizer
    from danlu.tokenizer import train_bpe

    with atomic_folder(Path(folder), replace=True) as temporary:
        if tokenizer is None:
            count = TINY_CONVERSATIONS
            files = write_world(temporary, SEED, count, count)
            sources = [{"path": str(files.instructions)}]
            opened = train_bpe(TinyWorld(SEED).stories(count), TINY_VOCABULARY)
        else:
            opened = load_tokenizer(tokenizer, Path(tokenizer).name).with_chat_format(chat_format)
        model = write_model(temporary / "model", opened, shape, tied)
        model["control_ids"] = control_ids(opened)
        counts = write_documents(temporary, sources, max_seq_len, repeat)
        write_json(temporary / "about.json", {**model, **counts})


def write_model(folder: Path, tokenizer: Any, shape: str, tied: bool) -> dict[str, Any]:
    """Write a random model in bf16 with its tokenizer; return its size."""
    import torch

    from danlu.loading import decoder_from_config, save_decoder

    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": -(-tokenizer.vocab_size // ROW_STEP) * ROW_STEP,
        "max_position_embeddings": 4096,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_id,
        **SHAPES[shape],
    }
    decoder = decoder_from_config(config).to_empty(device="cpu")
    decoder.tie_head()
    decoder.init_weights(torch.Generator().manual_seed(SEED))
    save_decoder(decoder, folder, torch.bfloat16)
    tokenizer.save_tokenizer_json(folder)
    parameters = sum(parameter.numel() for parameter in decoder.parameters())
    return {"parameters": parameters, "vocabulary": config["vocab_size"]}


def write_documents(
    folder: Path, sources: list[dict[str, Any]], max_seq_len: int, repeat: int
) -> dict[str, int]:
    """Write conversations, and what the tokenizer makes of them; return how many there are."""
    import numpy as np

    from danlu.config.data import DataSource
    from danlu.data.conversations import read_conversations
    from danlu.data.encoded.encoding import ChatEncoder
    from danlu.loading import load_tokenizer

    read = [each for source in sources for each in read_conversations(DataSource(**source))]
    lines = [json.dumps({"messages": each.messages}, ensure_ascii=False) + "\n" for each in read]
    (folder / "messages.jsonl").write_text("".join(lines * repeat), encoding="utf-8")
    encode = ChatEncoder(load_tokenizer(folder / "model"), max_seq_len, long="truncate")
    rows = [row for row in encode(read) if row.arrays is not None]
    ids, labels = (np.concatenate([row.arrays[column] for row in rows]) for column in (0, 1))
    lengths = [len(row.arrays[0]) for row in rows]
    np.savez(folder / "documents.npz", ids=ids, labels=labels, ends=np.cumsum(lengths))
    return {"conversations": len(rows), "tokens": len(ids), "longest": max(lengths)}


if __name__ == "__main__":
    write_material(**options_of_worker())
