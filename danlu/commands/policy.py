"""The models of an alignment run: the one that is taught, and the one it is compared with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from danlu.commands.training import training_device
from danlu.commands.tuning import masters_of, open_tuned, stamp_adapter, write_tuned
from danlu.config.align import AlignRun
from danlu.config.objective import RewardConfig
from danlu.data.preferences import Example
from danlu.errors import ConfigError
from danlu.loading import load_decoder
from danlu.loading.reward import put_score_head, save_reward_adapter, save_reward_model
from danlu.models.decoder import Decoder
from danlu.progress import Progress
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.stamp import write_stamp
from danlu.train.precision import DTYPES, Masters
from danlu.train.preference.reference import Nobody, Other, Reference, Stored, WithoutAdapter
from danlu.train.preference.source import Known
from danlu.train.preference.storing import FOLDER, examples_hash, stored_log_probs


def open_policy(run: AlignRun, tokenizer: Tokenizer) -> tuple[Decoder, Masters]:
    """Return the model to teach: whole, or with its base frozen in the compute dtype.

    Raises:
        ConfigError: if a reward model would lose what the adapter says of the head.
        AdapterError, CheckpointError: if adapter or model do not fit.
    """
    generator = torch.Generator().manual_seed(run.seed)
    decoder = open_tuned(run, run.train, tokenizer, generator)
    if isinstance(run.objective, RewardConfig):
        _replace_head(decoder, generator)
    return decoder, masters_of(run, decoder, run.train)


def _replace_head(decoder: Decoder, generator: torch.Generator) -> None:
    changed = [name for attached in decoder.adapters.values() for name in attached.names]
    if any(name.startswith("lm_head") for name in changed):
        raise ConfigError(
            "The adapter changes lm_head, and a reward model has a head of its own. Expected an "
            "adapter of other layers. Take lm_head out of adapter.targets and adapter.whole."
        )
    put_score_head(decoder, generator)


def open_reference(
    run: AlignRun,
    policy: Decoder,
    examples: Sequence[Example],
    folder: Path,
    inputs: Mapping[str, Any],
    progress: Progress,
) -> tuple[Reference, Known | None]:
    """Return what the policy is compared with, and what that says if it is asked beforehand.

    Args:
        run: the run.
        policy: as it is before training.
        examples: all that are trained and evaluated on.
        folder: of the run; the numbers are kept in it.
        inputs: what identifies the models.
        progress: told of the examples.
    """
    if not run.needs_reference:
        return Nobody(), None
    model = policy if run.reference.model is None else _other(run, policy)
    if not run.precomputes:
        return (WithoutAdapter() if model is policy else Other(model)), None
    identity = {**inputs, "run": run.model_dump(mode="json", exclude={"out", "data", "train"})}
    identity["precision"] = run.train.precision
    place = folder / FOLDER / examples_hash(examples, identity)[:16]
    known = stored_log_probs(model, examples, place, run.train.micro_batch_size, progress)
    return Stored(), known


def _other(run: AlignRun, policy: Decoder) -> Decoder:
    assert run.reference.model is not None
    dtype = DTYPES[run.train.precision]
    model = load_decoder(run.reference.model, dtype, training_device(run.train))
    if model.config.vocab_size != policy.config.vocab_size:
        raise ConfigError(
            f"reference.model '{run.reference.model}' has {model.config.vocab_size} tokens and "
            f"model '{run.model}' has {policy.config.vocab_size}; expected one vocabulary. Name a "
            "model of the same kind."
        )
    return model


def write_policy(
    run: AlignRun, decoder: Decoder, masters: Masters, tokenizer: Tokenizer, folder: Path
) -> None:
    """Write what was taught into `folder`: a model or an adapter, with a score head if it has one.

    Raises:
        OutputError: if the folder cannot be written.
    """
    chat_format = run.data.chat_format
    if not isinstance(run.objective, RewardConfig):
        write_tuned(run, run.train, decoder, masters, tokenizer, folder, chat_format)
    elif run.adapter is not None:
        save_reward_adapter(decoder, folder, run.model)
        stamp_adapter(run, run.train, tokenizer, folder, chat_format)
    else:
        _write_reward_model(run, decoder, masters, tokenizer, folder)


def _write_reward_model(
    run: AlignRun, decoder: Decoder, masters: Masters, tokenizer: Tokenizer, folder: Path
) -> None:
    assert decoder.published is not None
    dtype = DTYPES[run.train.save_dtype or run.train.precision]
    masters.export(decoder, dtype)
    ids = {name: getattr(tokenizer, name) for name in ("bos_id", "eos_id", "pad_id")}
    special = {name.replace("_id", "_token_id"): value for name, value in ids.items()}
    save_reward_model(decoder, folder, dtype, special)
    tokenizer.save(folder)
    write_stamp(folder, tokenizer, run.data.chat_format, decoder.published.family)
