"""Makes the random checkpoints that the other benchmarks read: a model of known sizes, a tokenizer.

Sizes: `0.5b` (ANCHORS section 0: hidden 896, 24 layers, 14/2 heads, feed-forward 4864, vocabulary
151936, tied), `7b` (Llama-2-7B's), `tiny`, of architecture llama; `qwen-1.8b` and `qwen-7b` (those
of ANCHORS section 4), `qwen-tiny`, of architecture Qwen-1. All bf16, seed 0. An existing folder is
left as it is.

    python -m benchmarks.checkpoint --size 0.5b [--work FOLDER] [--device cuda]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.facts import ROOT

SEED = 0
VOCABULARY, STORIES = 2048, 2000  # of the tokenizer; the model's vocabulary may be larger
SIZES: dict[str, dict[str, Any]] = {
    "0.5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_theta": 1000000.0,
    },
    "7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "tie_word_embeddings": False,
        "rope_theta": 10000.0,
    },
    "tiny": {
        "vocab_size": 4096,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
    },
}
QWEN_SIZES: dict[str, tuple[int, int, int, int]] = {  # hidden, layers, heads, intermediate size
    "qwen-1.8b": (2048, 24, 16, 11008),
    "qwen-7b": (4096, 32, 32, 22016),
    "qwen-tiny": (64, 2, 4, 384),
}


def default_work() -> Path:
    """Return the cache folder of the benchmarks."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "danlu-benchmarks"


def add_work_option(parser: argparse.ArgumentParser) -> None:
    """Add --work."""
    parser.add_argument(
        "--work", type=Path, default=default_work(), help="folder for checkpoints (kept)"
    )


def checkpoint(size: str, work: Path, device: str = "cpu") -> Path:
    """Return the folder of a checkpoint, made by a process of its own if it is not there."""
    folder = _folder(size, work)
    if not folder.is_dir():
        command = ["-m", "benchmarks.checkpoint", "--size", size, "--work", str(work)]
        subprocess.run([sys.executable, *command, "--device", device], cwd=ROOT, check=True)
    return folder


def weight_bytes(folder: Path) -> int:
    """Return the size of the weight files of a checkpoint."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def make_checkpoint(size: str, folder: Path, device: str) -> None:
    """Write the random model, and a small tokenizer, into a new folder."""
    import torch

    from danlu.files import atomic_folder
    from danlu.loading import decoder_from_config, save_decoder

    decoder = decoder_from_config(model_config(size)).to(torch.bfloat16).to_empty(device=device)
    decoder.tie_head()
    decoder.init_weights(torch.Generator(device).manual_seed(SEED))
    with atomic_folder(folder) as temporary:
        save_decoder(decoder.cpu(), temporary)
        write_tokenizer(temporary)


def model_config(size: str) -> dict[str, Any]:
    """Return the config.json of a size."""
    if size in QWEN_SIZES:
        return _qwen_config(size)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "torch_dtype": "bfloat16",
        "bos_token_id": None,
        "eos_token_id": 0,
        **SIZES[size],
    }


def _qwen_config(size: str) -> dict[str, Any]:
    hidden, layers, heads, intermediate = QWEN_SIZES[size]
    return {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "vocab_size": 151936 if size != "qwen-tiny" else 4096,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "kv_channels": hidden // heads,
        "seq_length": 8192,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }


def _folder(size: str, work: Path) -> Path:
    return work / (f"random-{size}" if size in QWEN_SIZES else f"random-llama-{size}")


def write_tokenizer(folder: Path) -> None:
    """Train a tokenizer on a few stories and write it into `folder`."""
    from danlu.data.tiny_world import TinyWorld
    from danlu.tokenizer import train_bpe

    train_bpe(TinyWorld(SEED).stories(STORIES), VOCABULARY).save(folder)


def main() -> None:
    """Make one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_work_option(parser)
    parser.add_argument("--size", choices=[*SIZES, *QWEN_SIZES], default="0.5b")
    parser.add_argument("--device", default="cpu", help="where the random numbers are drawn")
    options = parser.parse_args()
    folder = _folder(options.size, options.work)
    if not folder.is_dir():
        make_checkpoint(options.size, folder, options.device)


if __name__ == "__main__":
    main()
