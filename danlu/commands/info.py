"""What a folder is, from its configs and the headers of its weight files."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.errors import AdapterError, CheckpointError, TokenizerError
from danlu.files import size_text
from danlu.loading.building import decoder_from_config, read_json
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.tokenizer import load_tokenizer
from danlu.weights.files import find_weight_files, stream

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"


@dataclass(frozen=True)
class FolderInfo:
    """What a folder holds, as labels and values in the order to print them."""

    path: Path
    labelled: tuple[tuple[str, str], ...]

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print."""
        return list(self.labelled)

    def as_dict(self) -> dict[str, Any]:
        """Return the labels and values as plain JSON values."""
        return {"path": str(self.path), **dict(self.labelled)}


def describe(path: str | Path) -> FolderInfo:
    """Return what the folder of a model or adapter holds. No weight is read, only headers.

    Raises:
        CheckpointError: if the folder holds neither, or its files do not fit together.
    """
    folder = Path(path)
    if (folder / CONFIG).is_file():
        return FolderInfo(folder, tuple(_model_rows(folder)))
    if (folder / ADAPTER_CONFIG).is_file():
        return FolderInfo(folder, tuple(_adapter_rows(folder)))
    found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    raise CheckpointError(
        f"'{folder}' holds no model and no adapter. Expected a folder with {CONFIG} or "
        f"{ADAPTER_CONFIG}; found {', '.join(found[:10]) or 'nothing'}."
    )


def _model_rows(folder: Path) -> list[tuple[str, str]]:
    values = read_json(folder / CONFIG)
    decoder = decoder_from_config(values)
    name = decoder.published.family if decoder.published else "unknown"
    return [
        ("kind", "model"),
        ("family", f"{name} ({discover()[name].summary})"),
        *_size_rows(decoder),
        *_weight_rows(folder, values.get("quantization_config")),
        *_tokenizer_rows(folder, name),
    ]


def _size_rows(decoder: Decoder) -> list[tuple[str, str]]:
    config = decoder.config
    heads = f"{config.num_heads} heads of {config.head_dim}"
    shared = f", {config.num_kv_heads} key/value heads"
    parameters = sum(parameter.numel() for parameter in decoder.parameters())  # tied: once
    return [
        ("parameters", f"{parameters:,}"),
        ("layers", f"{config.num_layers} x hidden {config.hidden_size}"),
        ("attention", heads + shared * (config.num_kv_heads != config.num_heads)),
        ("mlp", f"intermediate {config.intermediate_size}"),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("context", f"{config.max_seq_len:,} tokens"),
    ]


def _weight_rows(folder: Path, scheme: object) -> list[tuple[str, str]]:
    sizes: Counter[str] = Counter()
    for _, tensor, _ in stream(find_weight_files(folder)):
        sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel() * tensor.element_size()
    shares = ", ".join(f"{dtype} {size_text(size)}" for dtype, size in sizes.most_common())
    rows = [("weights", shares), ("memory to load", size_text(sizes.total()))]
    if isinstance(scheme, dict):
        rows.append(("quantized", str(scheme.get("quant_method", "yes"))))
    return rows


def _tokenizer_rows(folder: Path, family: str) -> list[tuple[str, str]]:
    try:
        tokenizer = load_tokenizer(folder, family)
    except TokenizerError as error:
        return [("tokenizer", f"not usable: {str(error).split('. ')[0]}")]
    return [
        ("tokenizer", f"{tokenizer.vocab_size:,} tokens, {len(tokenizer.special_tokens)} control"),
        ("chat format", tokenizer.chat_format or "none"),
    ]


def _adapter_rows(folder: Path) -> list[tuple[str, str]]:
    config = read_json(folder / ADAPTER_CONFIG)
    weights = sum(file.stat().st_size for file in folder.glob("adapter_model.*"))
    if not weights:
        raise AdapterError(f"'{folder}' has an {ADAPTER_CONFIG} but no adapter_model file.")
    modules = config.get("target_modules") or []
    return [
        ("kind", f"adapter ({config.get('peft_type', 'unknown')})"),
        ("base", str(config.get("base_model_name_or_path"))),
        ("rank", str(config.get("r"))),
        ("alpha", str(config.get("lora_alpha"))),
        ("layers", f"{len(modules)}" if isinstance(modules, list) else str(modules)),
        ("size", size_text(weights)),
    ]
