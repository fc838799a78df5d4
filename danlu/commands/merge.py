"""`danlu merge`: adapters become part of their base, and the outputs are shown not to move.

They are added to the very weights they were trained on: a base that was rounded for the training
(Q-LoRA) is rounded again in the same way, and then made dense.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.commands.compare import comparison_rows
from danlu.commands.manifest import write_manifest
from danlu.commands.samples import comparison_batches
from danlu.commands.tuning import QUANTIZATION, ROUNDED_FROM
from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import AdapterError
from danlu.eval.compare import Comparison, compare_decoders
from danlu.files import atomic_folder
from danlu.hub import resolve
from danlu.loading import (
    dequantize,
    load_adapter,
    load_decoder,
    load_tokenizer,
    merge_adapters,
    save_decoder,
    stored_dtype,
    take_exact_inputs,
)
from danlu.models.decoder import Decoder
from danlu.progress import Progress, Silent, working
from danlu.quantize.linear import QuantizedLinear
from danlu.tokenizer.stamp import read_stamp, tokenizer_of_adapter, write_stamp
from danlu.train.precision import DTYPES

# What rounding to bfloat16 can do to a model; a wrong merge is orders of magnitude away.
MAX_KL = 1e-2
MIN_AGREEMENT = 0.97


@dataclass(frozen=True)
class MergeReport:
    """A merged model beside its base with the adapters attached.

    Attributes:
        out: folder of the merged model.
        merged_layers: layers that the adapters changed.
        dequantized_layers: layers of the base that were rounded, and are dense now.
        exact_inputs: of these, layers that rounded their inputs too, and do not any more.
        dtype: the merged weights are stored in.
        comparison: the merged model as stored, against base + adapters in float32, whose inputs
            are not rounded either.
    """

    out: str
    merged_layers: int
    dequantized_layers: int
    exact_inputs: int
    dtype: str
    comparison: Comparison

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values for a table."""
        rows = [("merged layers", f"{self.merged_layers}, stored as {self.dtype}")]
        if self.dequantized_layers:
            count = f"{self.dequantized_layers} layers of the base, as the adapter saw them"
            rows.append(("made dense", count))
        if self.exact_inputs:
            rows.append(("rounding lost", f"of the inputs of {self.exact_inputs} of these layers"))
        return [*rows, *comparison_rows(self.comparison)]


def merge(
    base: str | Path,
    adapter: str | Path | Sequence[str | Path],
    out: str | Path,
    text: str | Path | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    family: str | None = None,
    quantize: str | QuantScheme | None = None,
    max_kl: float = MAX_KL,
) -> MergeReport:
    """Write the base with adapters merged in to the folder `out`.

    The weights are added up in float32 and stored in the dtype of the base, then read back and
    compared with base + adapters.

    Args:
        base: folder of the model that the adapters were trained on.
        adapter: folder of the adapter, or folders of several; their updates add up.
        out: a new folder.
        text: a corpus to compare on; None: texts that the adapted model writes.
        dtype: to store; default: as the base is stored.
        progress: of the work.
        family: of the base, where its config.json does not tell it.
        quantize: what the base was rounded to in training; None: as the adapter's stamp says.
        max_kl: the most that outputs may move, as a mean KL in nats.

    Raises:
        OutputError: if `out` exists.
        AdapterError: if an adapter does not fit the base, has no place in weights (a prefix), or
            the outputs moved (nothing is left).
    """
    report = progress or Silent()
    folders = [Path(adapter)] if isinstance(adapter, str | Path) else list(map(Path, adapter))
    tokenizer = tokenizer_of_adapter(folders[0], load_tokenizer(base, family))
    rounded = _Rounded(quantize) if quantize is not None else _recorded(folders)
    with atomic_folder(Path(out)) as folder, working(report, "merge", 3):
        decoder = _adapted(base, folders, rounded, family)
        num_rounded = sum(isinstance(module, QuantizedLinear) for module in decoder.modules())
        merged_layers = merge_adapters(decoder)
        dequantize(decoder)
        if dtype is None and num_rounded:  # the file of a rounded base tells no dtype for weights
            dtype = stored_dtype(resolve(base))
        save_decoder(decoder, folder, dtype)
        tokenizer.save(folder)
        write_stamp(folder, tokenizer, family=family)
        report.advance(1, "stored")
        adapted, merged = _adapted(base, folders, rounded, family), load_decoder(folder)
        exact_inputs = take_exact_inputs(adapted)
        batches = comparison_batches(adapted, tokenizer, Path(text) if text else None, Silent())
        report.advance(1, "comparing")
        comparison = compare_decoders(adapted, merged, batches)
        _check(comparison, base, folders, max_kl)
        stored = str(next(iter(_stored_dtypes(merged)))).removeprefix("torch.")
        result = MergeReport(
            str(out), len(merged_layers), num_rounded, len(exact_inputs), stored, comparison
        )
        names = ["adapter", *(f"adapter_{i}" for i in range(2, len(folders) + 1))]
        parents = {"base": str(base), **dict(zip(names, map(str, folders), strict=True))}
        write_manifest(folder, "merge", parents, {"dtype": stored}, result.as_dict())
        report.advance(1, "done")
    return result


@dataclass(frozen=True)
class _Rounded:
    """What a base was rounded to, and from which dtype."""

    scheme: str | QuantScheme | None = None
    dtype: torch.dtype = torch.float32


def _adapted(
    base: str | Path, adapters: Sequence[Path], rounded: _Rounded, family: str | None
) -> Decoder:
    """Return the base as the adapters saw it, with all of them on, computing in float32."""
    decoder = load_decoder(
        base, rounded.dtype, adapter=adapters[0], quantize=rounded.scheme, family=family
    )
    for number, path in enumerate(adapters[1:], start=2):
        load_adapter(decoder, path, f"adapter_{number}")
    return decoder.float()


def _recorded(adapters: Sequence[Path]) -> _Rounded:
    """Return what the base was rounded to when the adapters were trained, as they say.

    Integers are rounded from weights in the precision of the training; code books are rounded from
    weights as they are stored.

    Raises:
        AdapterError: if the adapters were trained on different bases.
    """
    stamps = [read_stamp(path) for path in adapters]
    found: list[tuple[Any, Any]] = [(s.get(QUANTIZATION), s.get(ROUNDED_FROM)) for s in stamps]
    if any(record != found[0] for record in found):
        schemes = "; ".join(f"'{p}': {s}" for p, s in zip(adapters, found, strict=True))
        raise AdapterError(
            f"The adapters were trained on bases that were rounded differently: {schemes}. "
            "Expected the same for all. Merge them one after the other."
        )
    values, precision = found[0]
    if values is None:
        return _Rounded()
    scheme = QuantScheme(**values)
    return _Rounded(scheme, DTYPES["fp32" if scheme.is_code_book else precision])


def _stored_dtypes(decoder: Any) -> list[torch.dtype]:
    return list(decoder.published.dtypes.values())


def _check(
    comparison: Comparison, base: str | Path, adapters: Sequence[Path], max_kl: float
) -> None:
    moved = comparison.kl_mean > max_kl or comparison.top1_agreement < MIN_AGREEMENT
    if moved:
        names = ", ".join(f"'{path}'" for path in adapters)
        raise AdapterError(
            f"Merging {names} into '{base}' moved the outputs: {comparison.summary()}. "
            f"Expected a mean KL of at most {max_kl} and an agreement of at least "
            f"{MIN_AGREEMENT:.0%}. Nothing was written; store in float32 (--dtype fp32), or keep "
            "base and adapter apart."
        )
