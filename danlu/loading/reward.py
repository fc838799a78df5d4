"""Reward models: a decoder whose head is one row, the score of what was read so far.

A whole model is written as transformers has them, ``LlamaForSequenceClassification`` and the like:
the published tensors without the head, and ``score.weight``. An adapter is written as any adapter,
with ``reward_head.safetensors`` beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import CheckpointError, bullet_list, did_you_mean
from danlu.files import atomic_file, write_json
from danlu.hub import resolve
from danlu.loading.adapting import save_adapter
from danlu.loading.building import (
    decoder_from_config,
    dense,
    family_named,
    family_of_folder,
    read_json,
    read_model_config,
)
from danlu.loading.layout import HEAD, published_layout
from danlu.loading.reading import load_decoder
from danlu.models.decoder import Decoder
from danlu.weights.files import find_weight_files, stream
from danlu.weights.rules import Entry
from danlu.weights.writing import write_tensors, write_weights

SCORE = "score.weight"
HEAD_FILE = "reward_head.safetensors"
_ADAPTER_CONFIG = "adapter_config.json"
_CAUSAL, _SCORING = ("ForCausalLM", "LMHeadModel"), "ForSequenceClassification"
_KEPT = "causal_lm_architectures"  # what `architectures` said of the language model
_LABELS: Mapping[str, Any] = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
_DEVIATION = 0.02  # of fresh heads in transformers


def put_score_head(decoder: Decoder, generator: torch.Generator) -> None:
    """Replace the head of a language model by a fresh one that gives a single score."""
    width, embedding = decoder.config.embedding_width, decoder.model.embed_tokens
    weight = torch.normal(0.0, _DEVIATION, (1, width), generator=generator)
    decoder.lm_head = dense("lm_head", weight.to(embedding.weight.device, decoder.dtype), None)


def save_reward_model(
    decoder: Decoder,
    folder: str | Path,
    dtype: torch.dtype,
    special: Mapping[str, int | None] | None = None,
) -> None:
    """Write a reward model without adapters into `folder`, with config.json.

    Args:
        decoder: with a score head.
        folder: made if needed.
        dtype: of all tensors.
        special: keys of config.json that name tokens, such as ``pad_token_id``, by which
            transformers finds the last token of a padded text.

    Raises:
        OutputError: if the folder cannot be written.
    """
    published = decoder.published
    assert published is not None
    prefix = family_named(published.family).optional_prefix
    state = dict(decoder.named_parameters())
    tensors = {SCORE: state[HEAD].detach().to(dtype)}
    for name, entry in published_layout(decoder).entries.items():
        if entry.ours != (HEAD,):
            stored = name if published.has_prefix or not prefix else name.removeprefix(prefix)
            tensors[stored] = entry.save(state).detach().to(dtype)
    write_weights(Path(folder), tensors)
    known = {key: value for key, value in (special or {}).items() if value is not None}
    name = str(dtype).removeprefix("torch.")
    config = {**_scoring_config(published.config), **known, "torch_dtype": name}
    write_json(Path(folder) / "config.json", config)


def save_reward_adapter(decoder: Decoder, folder: str | Path, base: str | Path) -> None:
    """Write the adapter and the score head of a reward model into `folder`.

    Raises:
        OutputError: if the folder cannot be written.
    """
    save_adapter(decoder, folder, base)
    with atomic_file(Path(folder) / HEAD_FILE) as temporary:
        write_tensors(temporary, {SCORE: decoder.lm_head.dense_weight()})


def load_reward_model(
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    base: str | Path | None = None,
    family: str | None = None,
    quantize: str | QuantScheme | None = None,
) -> Decoder:
    """Return a reward model: a decoder whose `logits` are one score, in evaluation mode.

    Args:
        folder: as `save_reward_model` or `save_reward_adapter` wrote it, or a transformers model
            for sequence classification with one label.
        dtype: of the parameters.
        device: where they go.
        base: the model that an adapter belongs to; None: the one that it names.
        family: name of the family, where config.json does not tell it.
        quantize: what the base of an adapter was rounded to while it was trained.

    Raises:
        CheckpointError: with everything that is missing, left over or misshapen.
        AdapterError: if an adapter does not fit its base.
    """
    path = resolve(folder)
    if not (path / _ADAPTER_CONFIG).is_file():
        return _read_whole(path, dtype, torch.device(device), family).eval()
    model = base or read_json(path / _ADAPTER_CONFIG).get("base_model_name_or_path")
    if not model:
        raise CheckpointError(
            f"'{path / _ADAPTER_CONFIG}' names no base model; expected one under "
            "base_model_name_or_path. Pass base=."
        )
    decoder = load_decoder(model, dtype, device, path, quantize, family)
    if not (path / HEAD_FILE).is_file():
        raise CheckpointError(
            f"'{path}' has no {HEAD_FILE}; expected the adapter of a reward model, as `danlu "
            "align` writes it with objective.method reward."
        )
    _put_head(decoder, load_file(path / HEAD_FILE)[SCORE], dtype)
    return decoder.eval()


def _put_head(decoder: Decoder, weight: Tensor, dtype: torch.dtype) -> None:
    device = decoder.model.embed_tokens.weight.device
    decoder.lm_head = dense("lm_head", weight.to(device, dtype, copy=True), None)


def _read_whole(
    folder: Path, dtype: torch.dtype, device: torch.device, family: str | None
) -> Decoder:
    values = _causal_config(read_model_config(folder))
    decoder = decoder_from_config(values, family_of_folder(folder, values, family))
    assert decoder.published is not None
    prefix = family_named(decoder.published.family).optional_prefix or ""
    entries = published_layout(decoder).entries
    wanted = {name: entry for name, entry in entries.items() if entry.ours != (HEAD,)}
    head_shape = (1, decoder.config.embedding_width)
    problems, found = [], set[str]()
    for name, tensor, file in stream(find_weight_files(folder)):
        known = next((key for key in (name, prefix + name) if key in wanted), None)
        expected = head_shape if name == SCORE else known and tuple(wanted[known].shape)
        if not expected:
            problems.append(f"{name} in {file.name} is unknown.{did_you_mean(name, wanted)}")
        elif tuple(tensor.shape) != expected:
            problems.append(f"{name} is {list(tensor.shape)}; expected {list(expected)}.")
        elif known is None:
            decoder.lm_head = dense("lm_head", tensor.to(device, dtype, copy=True), None)
        else:
            _put(decoder, wanted[known], tensor, dtype, device)
        found.add(known or name)
    problems += [f"{name} is missing." for name in (*wanted, SCORE) if name not in found]
    if problems:
        raise CheckpointError(
            f"'{folder}' is no whole reward model of family {decoder.published.family!r}:"
            f"{bullet_list(problems)}\nExpected the tensors of the model and '{SCORE}'."
        )
    return decoder


def _put(
    decoder: Decoder, entry: Entry, tensor: Tensor, dtype: torch.dtype, device: torch.device
) -> None:
    for ours, part in entry.load(tensor).items():
        owner, _, leaf = ours.rpartition(".")
        module = decoder.get_submodule(owner)
        exact = leaf in getattr(module, "kept_in_float32", ())
        own = part.to(device, torch.float32 if exact else dtype, copy=True).contiguous()
        module.register_parameter(leaf, nn.Parameter(own))


def _scoring_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json of the reward model made of a language model."""
    before = list(config.get("architectures") or [])
    after = [_renamed(name, _CAUSAL, _SCORING) for name in before]
    return {**config, "architectures": after, _KEPT: before, **_LABELS}


def _causal_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json of the language model that a reward model was made of."""
    values = {key: value for key, value in config.items() if key not in (*_LABELS, _KEPT)}
    names = config.get("architectures") or []
    before = [_renamed(name, (_SCORING,), _CAUSAL[0]) for name in names]
    return {**values, "architectures": config.get(_KEPT, before)}


def _renamed(name: str, endings: tuple[str, ...], ending: str) -> str:
    stem = next((name.removesuffix(old) for old in endings if name.endswith(old)), None)
    return name if stem is None else stem + ending
