"""`danlu merge`: an adapter becomes part of its base, and the outputs are shown not to move."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.handling import merge_adapters
from danlu.commands.compare import comparison_rows
from danlu.commands.manifest import write_manifest
from danlu.commands.samples import comparison_batches
from danlu.errors import AdapterError
from danlu.eval.compare import Comparison, compare_decoders
from danlu.files import atomic_folder
from danlu.loading import load_decoder, load_tokenizer, save_decoder
from danlu.progress import Progress, Silent, working
from danlu.tokenizer.stamp import write_stamp

# What rounding to bfloat16 can do to a model; a wrong merge is orders of magnitude away.
MAX_KL = 1e-2
MIN_AGREEMENT = 0.97


@dataclass(frozen=True)
class MergeReport:
    """A merged model beside its base with the adapter attached.

    Attributes:
        out: folder of the merged model.
        merged_layers: layers that the adapter changed.
        dtype: the merged weights are stored in.
        comparison: the merged model as stored, against base + adapter in float32.
    """

    out: str
    merged_layers: int
    dtype: str
    comparison: Comparison

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values for a table."""
        layers = ("merged layers", f"{self.merged_layers}, stored as {self.dtype}")
        return [layers, *comparison_rows(self.comparison)]


def merge(
    base: str | Path,
    adapter: str | Path,
    out: str | Path,
    text: str | Path | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    family: str | None = None,
) -> MergeReport:
    """Write the base with the adapter merged in to the folder `out`.

    The weights are added up in float32 and stored in the dtype of the base, then read back and
    compared with base + adapter.

    Args:
        base: folder of the model that the adapter was trained on.
        adapter: folder of the adapter.
        out: a new folder.
        text: a corpus to compare on; None: texts that the adapted model writes.
        dtype: to store; default: as the base is stored.
        progress: of the work.
        family: of the base, where its config.json does not tell it.

    Raises:
        OutputError: if `out` exists.
        AdapterError: if the adapter does not fit the base, or the outputs moved (nothing is left).
    """
    report = progress or Silent()
    tokenizer = load_tokenizer(base, family)
    with atomic_folder(Path(out)) as folder, working(report, "merge", 3):
        decoder = load_decoder(base, adapter=adapter, family=family)
        merged_layers = merge_adapters(decoder)
        save_decoder(decoder, folder, dtype)
        tokenizer.save(folder)
        write_stamp(folder, tokenizer, family=family)
        report.advance(1, "stored")
        adapted, merged = load_decoder(base, adapter=adapter, family=family), load_decoder(folder)
        batches = comparison_batches(adapted, tokenizer, Path(text) if text else None, Silent())
        report.advance(1, "comparing")
        comparison = compare_decoders(adapted, merged, batches)
        _check(comparison, base, adapter)
        stored = str(next(iter(_stored_dtypes(merged)))).removeprefix("torch.")
        result = MergeReport(str(out), len(merged_layers), stored, comparison)
        parents = {"base": str(base), "adapter": str(adapter)}
        write_manifest(folder, "merge", parents, {"dtype": stored}, result.as_dict())
        report.advance(1, "done")
    return result


def _stored_dtypes(decoder: Any) -> list[torch.dtype]:
    return list(decoder.published.dtypes.values())


def _check(comparison: Comparison, base: str | Path, adapter: str | Path) -> None:
    moved = comparison.kl_mean > MAX_KL or comparison.top1_agreement < MIN_AGREEMENT
    if moved:
        raise AdapterError(
            f"Merging '{adapter}' into '{base}' moved the outputs: {comparison.summary()}. "
            f"Expected a mean KL of at most {MAX_KL} and an agreement of at least "
            f"{MIN_AGREEMENT:.0%}. Nothing was written; store in float32 (--dtype fp32), or keep "
            "base and adapter apart."
        )
