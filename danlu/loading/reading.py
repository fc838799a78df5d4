"""A path becomes a decoder."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from danlu.config.quantize.scheme import QuantScheme, preset
from danlu.errors import QuantizationError
from danlu.hub import resolve
from danlu.loading.adapting import load_adapter
from danlu.loading.building import (
    LinearFactory,
    decoder_from_config,
    family_of_folder,
    packed,
    read_model_config,
    rounding,
)
from danlu.loading.fusing import fuse_quantized
from danlu.loading.quantized import Layers, Quantization, quantization_of, tell_notes
from danlu.loading.stated import check_configs, check_weights
from danlu.loading.weight_reader import WeightReader
from danlu.models.decoder import Decoder
from danlu.tokenizer.stamp import broken_bounds
from danlu.weights.files import find_weight_files, stream
from danlu.weights.memory import freed_blocks_returned

log = logging.getLogger(__name__)


def load_decoder(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    adapter: str | Path | None = None,
    quantize: str | QuantScheme | None = None,
    family: str | None = None,
    for_inference: bool = False,
) -> Decoder:
    """Return the decoder of a checkpoint folder, in evaluation mode.

    Args:
        path: folder with config.json and weights (safetensors or `.bin`, one file or shards), or
            the id of a downloaded model.
        dtype: of the parameters.
        device: where they go.
        adapter: folder of a LoRA adapter to attach.
        quantize: round the linear layers while they stream in: "int8", "int4", "nf4", "fp4",
            "llm_int8" and "w8a8" (both round inputs too), or a scheme. The codes of nf4 and fp4 are
            those of bitsandbytes, whatever `dtype` is.
        family: name of the family, where config.json does not tell it.
        for_inference: fuse the projections of a block that share an input, and lay weights out as
            this machine's kernels want them; the decoder can then neither be trained nor saved.

    Raises:
        UnsupportedModelError: if no family opens the folder.
        CheckpointError: with everything that is wrong with its config or its weights.
        QuantizationError: if it is quantized in a way that is not read, or is to be quantized
            again.
    """
    folder = resolve(path)
    values = read_model_config(folder)
    for bound in broken_bounds(folder):
        log.warning("'%s' was quantized under a bound that it does not keep: %s.", folder, bound)
    decoder = decoder_from_config(values, family_of_folder(folder, values, family))
    scheme = quantize
    if scheme is not None and not isinstance(scheme, QuantScheme):
        scheme = preset(str(scheme))
    quantization = _quantization(folder, values, scheme)
    convert: LinearFactory | None = packed if for_inference else None
    if scheme is not None and not scheme.is_code_book:
        convert = rounding(scheme)
    with freed_blocks_returned():
        WeightReader(
            folder,
            decoder,
            dtype,
            torch.device(device),
            convert,
            quantization=quantization,
            blockwise=scheme if scheme is not None and scheme.is_code_book else None,
            fuse=for_inference and adapter is None,
            for_inference=for_inference,
        ).run()
    if adapter is not None:
        load_adapter(decoder, Path(adapter))
    elif for_inference and quantization is not None:
        fuse_quantized(decoder)
    decoder.prepared_for_inference = for_inference
    return decoder.eval()


def _quantization(
    folder: Path, values: Mapping[str, Any], scheme: QuantScheme | None
) -> Quantization | None:
    found = quantization_of(folder, values)
    if found is not None and scheme is not None:
        raise QuantizationError(
            f"'{folder}' is quantized already, as {found.config.get('quant_method')!r}; it cannot "
            f"be quantized as {scheme.method!r} too. Leave out quantize, or take the original."
        )
    if found is not None:
        check_configs(folder, found.config)
        check_weights(folder, found, find_weight_files(folder))
        tell_notes(folder, found)
    return found


def stored_dtype(path: str | Path) -> torch.dtype:
    """Return the dtype that most of a checkpoint's floating-point numbers are stored in.

    Of a quantized checkpoint only those that are not quantized are asked: scales tell nothing.
    """
    folder = Path(path)
    files = find_weight_files(folder)
    names = [name for file in files for name in file.names()]
    layers = Layers(quantization_of(folder, read_model_config(folder)), names)
    counts: dict[torch.dtype, int] = {}
    for name, tensor, _ in stream(files):
        if tensor.is_floating_point() and not layers.holds(name):
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return max(counts, key=lambda dtype: counts[dtype], default=torch.float32)
