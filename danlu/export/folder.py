"""A decoder written as the folder of another architecture, and read back to be compared."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danlu.errors import ExportError
from danlu.export.checking import check_logits, float32_logits, random_rows
from danlu.export.dense import DenseState
from danlu.export.generation import generation_config, token_ids
from danlu.export.source import has_quantized_layers, open_source, stored_dtypes, widest
from danlu.export.target import ExportOptions, ExportReport
from danlu.export.tokenizing import write_tokenizer
from danlu.files import atomic_folder, write_json
from danlu.loading import decoder_from_config
from danlu.loading.building import dense
from danlu.loading.layout import HEAD, published_layout
from danlu.models.decoder import Decoder
from danlu.models.family import Reexpressed
from danlu.nn.linear import LinearLike
from danlu.progress import Progress, working
from danlu.tokenizer import Tokenizer
from danlu.weights.rules import Entry
from danlu.weights.writing import write_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OPTIONS: Mapping[str, tuple[str, ...]] = {"dtype": tuple(DTYPES), "max_shard_bytes": ()}

# What a config.json may carry that other tools would take for more than a note.
DROPPED_KEYS = (
    "auto_map",
    "custom_pipelines",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
    "_from_model_config",
)


def write_folder(
    target: str,
    reexpressed: Reexpressed,
    decoder: Decoder,
    tokenizer: Tokenizer | None,
    out: Path,
    options: ExportOptions,
    progress: Progress,
) -> ExportReport:
    """Write `decoder` as the architecture of `reexpressed`; its weights are gone afterwards.

    Raises:
        OutputError: if `out` exists or cannot be written.
        ExportError: if the written folder gives other logits than the source, or other tokens.
    """
    assert decoder.published is not None
    family, notes = decoder.published.family, list(reexpressed.notes)
    if has_quantized_layers(decoder):
        notes.append("the quantized layers are written as the numbers they stand for")
    with atomic_folder(out) as folder, working(progress, "export", 4):
        tensors = PublishedTensors(decoder, reexpressed, DTYPES.get(options.dtype or ""))
        rows = _rows(decoder, tensors.layout_of)
        source = rounded = float32_logits(decoder, rows)
        progress.advance(1, "computed what to expect")
        write_weights(folder, tensors, options.max_shard_bytes)
        dtype = widest(tensors.dtypes.values())
        config = _config(reexpressed, decoder, tokenizer, dtype)
        write_json(folder / "config.json", config)
        if generation := generation_config(decoder, tokenizer):
            write_json(folder / "generation_config.json", generation)
        about_tokenizer = write_tokenizer(tokenizer, folder, family, notes)
        progress.advance(1, "written")
        if tensors.were_rounded:
            tensors.put_into(decoder)
            rounded = float32_logits(decoder, rows)
        tensors.release()
        decoder.to("meta")
        written = open_source(folder, family=reexpressed.family)
        check = check_logits(source, rounded, float32_logits(written, rows), str(out))
        progress.advance(2, "compared")
        return ExportReport(
            target=target,
            out=str(out),
            family=family,
            architecture=config["architectures"][0],
            dtype=str(dtype).removeprefix("torch."),
            num_bytes=sum(file.stat().st_size for file in folder.iterdir()),
            tokenizer=about_tokenizer,
            check=check,
            notes=tuple(notes),
        )


class PublishedTensors(Mapping[str, Tensor]):
    """The tensors of the other layout by their names, each made when it is asked for.

    Args:
        decoder: the source.
        reexpressed: what it becomes.
        dtype: of all tensors; None: as they are stored in the source.

    Attributes:
        layout_of: the decoder without weights whose layout is written.
        dtypes: of each tensor.
        were_rounded: whether some numbers were, of the tensors asked for so far.

    Raises:
        ExportError: if the other architecture has other parameters than the source.
    """

    def __init__(
        self, decoder: Decoder, reexpressed: Reexpressed, dtype: torch.dtype | None
    ) -> None:
        self._state: Mapping[str, Tensor] = DenseState(decoder)
        self.layout_of = decoder_from_config(reexpressed.config, reexpressed.family)
        tied = HEAD not in self._state
        entries = published_layout(self.layout_of).entries
        self._entries = {n: e for n, e in entries.items() if not (tied and e.ours == (HEAD,))}
        self._check_names(reexpressed.family)
        stored = stored_dtypes(decoder)
        self.dtypes = {
            name: dtype or widest(stored.get(ours, decoder.dtype) for ours in entry.ours)
            for name, entry in self._entries.items()
        }
        self.were_rounded = False

    def _check_names(self, family: str) -> None:
        wanted = {ours for entry in self._entries.values() for ours in entry.ours}
        differing = sorted(wanted ^ set(self._state))
        if differing:
            raise ExportError(
                f"The source and an architecture of family {family!r} do not have the same "
                f"parameters; only one of them has: {', '.join(differing[:8])}. "
                "Expected the same ones; compare its config.json with the published one."
            )

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor in the dtype it is stored in."""
        entry: Entry = self._entries[name]
        exact = entry.save({ours: self._state[ours] for ours in entry.ours})
        stored = exact.to(self.dtypes[name])
        self.were_rounded |= not torch.equal(stored.to(exact.dtype), exact)
        return stored

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._entries)

    def put_into(self, decoder: Decoder) -> None:
        """Give the source the numbers as they are stored; its layers become dense."""
        for name, entry in self._entries.items():
            for ours, part in entry.load(self[name]).items():
                owner, _, leaf = ours.rpartition(".")
                module = decoder.get_submodule(owner)
                if leaf == "weight" and isinstance(module, LinearLike):
                    bias = module.bias_or_none()
                    parameter = None if bias is None else nn.Parameter(bias.detach())
                    decoder.replace_linear(owner, dense(owner, part, parameter))
                else:
                    module.register_parameter(leaf, nn.Parameter(part))
        decoder.tie_head()

    def release(self) -> None:
        """Let the source's weights go."""
        self._state = {}


def _rows(source: Decoder, other: Decoder) -> Tensor:
    length = min(source.config.max_seq_len, other.config.max_seq_len)
    return random_rows(source.config.vocab_size, length)


def _config(
    reexpressed: Reexpressed, decoder: Decoder, tokenizer: Tokenizer | None, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the config.json: the architecture's, with control tokens and dtype."""
    kept = {key: value for key, value in reexpressed.config.items() if key not in DROPPED_KEYS}
    return {
        **token_ids(decoder, tokenizer),
        **kept,
        "dtype": str(dtype).removeprefix("torch."),
    }
