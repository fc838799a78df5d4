"""What is quantized: the folder of a model, or its re-expression as a living architecture."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from danlu.commands.export import export
from danlu.commands.manifest import folder_hash
from danlu.config.quantize.run import QuantizeRun
from danlu.errors import CheckpointError, QuantizationError
from danlu.hub import resolve
from danlu.loading import check_rows, decoder_from_config, load_tokenizer, read_model_config
from danlu.loading.building import family_of_folder
from danlu.loading.quantized import quantization_of
from danlu.models.decoder import Decoder
from danlu.progress import Progress
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.stamp import check_stamp

ADAPTER_CONFIG = "adapter_config.json"
LIVING = "transformers"  # in the work folder


@dataclass(frozen=True)
class Source:
    """A model to be quantized.

    Attributes:
        folder: of the model.
        family: as the caller says it; None: the folder tells.
        tokenizer: of the model.
        exported: what was done to it before, in words; empty: nothing.
    """

    folder: Path
    family: str | None
    tokenizer: Tokenizer
    exported: str = ""

    def shape(self) -> Decoder:
        """Return its decoder without weights."""
        values = read_model_config(self.folder)
        return decoder_from_config(values, family_of_folder(self.folder, values, self.family))


def open_source(run: QuantizeRun, work: Path, progress: Progress) -> Source:
    """Return what a run quantizes; a living export is made in the work folder, once.

    Raises:
        CheckpointError: if there is no model, or it is an adapter.
        QuantizationError: if it is quantized already.
        TokenizerError: if its tokenizer is missing or not the one it was trained with.
        ExportError: if it has no living form.
    """
    folder = resolve(run.model)
    _check_model(folder)
    source = _source(folder, run.family)
    if run.export is None:
        return source
    living, said = _living(source, run, work / LIVING, progress)
    return _source(living, None, said)


def _source(folder: Path, family: str | None, exported: str = "") -> Source:
    tokenizer = load_tokenizer(folder, family)
    check_stamp(folder, tokenizer)
    source = Source(folder, family, tokenizer, exported)
    check_rows(tokenizer, source.shape().config.vocab_size, folder)
    return source


def _check_model(folder: Path) -> None:
    is_adapter = (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()
    if is_adapter:
        raise CheckpointError(
            f"'{folder}' is an adapter; expected the folder of a model. Merge it first: "
            f"danlu merge BASE {folder} MERGED, then danlu quantize MERGED OUT."
        )
    quantization = quantization_of(folder, read_model_config(folder))
    if quantization is not None:
        raise QuantizationError(
            f"'{folder}' is quantized already, as {quantization.config.get('quant_method')!r}. "
            "Expected the original, whose weights have all their bits: quantize that instead."
        )


def _living(source: Source, run: QuantizeRun, out: Path, progress: Progress) -> tuple[Path, str]:
    """Return the model as a living architecture, and what it is; an earlier one is taken again."""
    if not _is_made_of(out, source.folder):
        shutil.rmtree(out, ignore_errors=True)
        assert run.export is not None
        export(source.folder, out, run.export, family=source.family, progress=progress)
    result = json.loads((out / "run.json").read_text(encoding="utf-8"))["result"]
    check = result["check"]
    return out, (
        f"{result['family']} re-expressed as {result['architecture']}: its logits differ by "
        f"{check['difference']:.1e} at most, over {check['num_tokens']} random tokens"
    )


def _is_made_of(out: Path, folder: Path) -> bool:
    try:
        manifest = json.loads((out / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    made: str = manifest["parents"]["model"]["sha256"]
    return made == folder_hash(folder)
