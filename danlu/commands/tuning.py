"""The model that fine-tuning and alignment teach: opened, made trainable, and written."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from danlu.commands.manifest import folder_hash
from danlu.commands.training import training_device, write_model
from danlu.config.data import DataSource
from danlu.config.quantize.scheme import QuantScheme, preset
from danlu.config.train import TrainOptions
from danlu.config.tuning import Tuning
from danlu.errors import CheckpointError, ConfigError
from danlu.loading import (
    attach_adapter,
    load_adapter,
    load_decoder,
    load_tokenizer,
    save_adapter,
    train_only,
)
from danlu.models.decoder import Decoder
from danlu.quantize.linear import QuantizedLinear
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.stamp import add_to_stamp, check_stamp, tokenizer_of_adapter, write_stamp
from danlu.train.freezing import freeze
from danlu.train.manifest import data_files
from danlu.train.precision import DTYPES, Masters

# In the stamp of an adapter: what its base was rounded to, and the precision it was rounded from.
QUANTIZATION, ROUNDED_FROM = "base_quantization", "base_precision"


def open_inputs(
    run: Tuning,
    chat_format: str | None,
    sources: Iterable[str | DataSource],
    other_models: dict[str, str | None] | None = None,
) -> tuple[Tokenizer, dict[str, Any]]:
    """Return the tokenizer, and the hashes of everything that a run is made of.

    Args:
        run: names the model, and the adapter to go on with.
        chat_format: of the run; None: the model's, or that of the adapter to go on with.
        sources: of the data.
        other_models: folders beside, by their key in the run file.

    Raises:
        CheckpointError: if a folder is missing.
        TokenizerError: if the model was trained with another tokenizer.
    """
    base = _folder("model", run.model)
    tokenizer = load_tokenizer(base, run.family)
    check_stamp(base, tokenizer)
    others = {"warm_start": run.warm_start, **(other_models or {})}
    found = {key: _folder(key, path) for key, path in others.items() if path is not None}
    if "warm_start" in found:
        tokenizer = tokenizer_of_adapter(found["warm_start"], tokenizer)
    if chat_format is not None:
        tokenizer = tokenizer.with_chat_format(chat_format)
    return tokenizer, {
        "data": data_files(sources),
        "tokenizer": tokenizer.fingerprint(),
        "model": {"path": run.model, "sha256": folder_hash(base)},
        **{key: {"path": str(at), "sha256": folder_hash(at)} for key, at in found.items()},
    }


def _folder(key: str, path: str) -> Path:
    if not Path(path).is_dir():
        kind, holds = (
            ("adapter", "an adapter") if key == "warm_start" else ("model", "a checkpoint")
        )
        raise CheckpointError(
            f"There is no {kind} at '{path}'; expected the folder of {holds}. "
            f"Correct `{key}` in the run file."
        )
    if key != "warm_start":
        _check_model(key, Path(path))
    return Path(path)


def _check_model(key: str, folder: Path) -> None:
    if (folder / "config.json").exists():
        return
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"'{folder}' is an adapter; expected the folder of a checkpoint under `{key}`. Name "
            "its base there, and this folder under `warm_start` to go on with it."
        )
    raise CheckpointError(
        f"There is no model in '{folder}', which has no config.json; expected the folder of a "
        f"checkpoint. Correct `{key}` in the run file."
    )


def open_tuned(
    run: Tuning, options: TrainOptions, tokenizer: Tokenizer, generator: torch.Generator
) -> Decoder:
    """Return the model on its device: whole, or with its base frozen in the compute dtype.

    Args:
        run: what is opened, and what of it is trained.
        options: device and precision.
        tokenizer: makes tokens of the texts that an adapter's config names.
        generator: draws a fresh adapter.

    Raises:
        ConfigError: if a quantized model should be trained without an adapter.
        AdapterError, CheckpointError: if adapter or model do not fit.
    """
    device = training_device(options)
    stored = torch.float32 if run.adapter is None else DTYPES[options.precision]
    decoder = load_decoder(run.model, stored, device, quantize=run.quantize, family=run.family)
    if run.adapter is None:
        _refuse_quantized(decoder, run.model)
        if run.freeze is not None:
            freeze(decoder, run.freeze)
    elif run.warm_start is not None:
        load_adapter(decoder, run.warm_start)
        train_only(decoder)
    else:
        attach_adapter(decoder, run.adapter, generator, tokenizer=tokenizer)
    return decoder.to(device)


def _refuse_quantized(decoder: Decoder, model: str) -> None:
    layers = [name for name, linear in decoder.linears() if isinstance(linear, QuantizedLinear)]
    if layers:
        raise ConfigError(
            f"'{model}' is quantized ({len(layers)} layers, {layers[0]} first), so its weights "
            "cannot be trained. Expected an adapter. Leave out adapter: null."
        )


def masters_of(run: Tuning, decoder: Decoder, options: TrainOptions) -> Masters:
    """Return the float32 weights that are moved; a model without adapter computes in low ones."""
    return Masters(decoder, DTYPES[options.precision] if run.adapter is None else None)


def write_tuned(
    run: Tuning,
    options: TrainOptions,
    decoder: Decoder,
    masters: Masters,
    tokenizer: Tokenizer,
    folder: Path,
    chat_format: str | None,
) -> None:
    """Write what was taught into `folder`: a model, or an adapter with what its base was.

    Raises:
        OutputError: if the folder cannot be written.
    """
    if run.adapter is None:
        write_model(decoder, masters, tokenizer, folder, options, chat_format)
    else:
        save_adapter(decoder, folder, run.model)
        stamp_adapter(run, options, tokenizer, folder, chat_format)


def stamp_adapter(
    run: Tuning, options: TrainOptions, tokenizer: Tokenizer, folder: Path, chat_format: str | None
) -> None:
    """Write beside an adapter what it was trained with: tokens, format, a rounded base."""
    write_stamp(folder, tokenizer, chat_format, run.family)
    if run.quantize is not None:
        scheme = run.quantize if isinstance(run.quantize, QuantScheme) else preset(run.quantize)
        facts = {QUANTIZATION: scheme.model_dump(mode="json"), ROUNDED_FROM: options.precision}
        add_to_stamp(folder, **facts)
