"""The composition root: a path becomes a decoder, and a decoder a folder.

Order applied to a model: build on meta -> swap linears (quantized or packed) -> stream the weights
in, each tensor renamed, split, cast and converted as it arrives -> check that nothing is missing or
left over -> attach the adapter. Peak host memory is the model plus its largest tensor.
"""

from danlu.loading.adapting import attach_adapter, load_adapter, save_adapter
from danlu.loading.building import (
    LinearFactory,
    decoder_from_config,
    new_decoder,
    read_model_config,
    rounding,
)
from danlu.loading.quantized import dequantize
from danlu.loading.reading import load_decoder, stored_dtype
from danlu.loading.saving import save_decoder
from danlu.loading.tokenizers import check_rows, load_tokenizer

__all__ = [
    "LinearFactory",
    "attach_adapter",
    "check_rows",
    "decoder_from_config",
    "dequantize",
    "load_adapter",
    "load_decoder",
    "load_tokenizer",
    "new_decoder",
    "read_model_config",
    "rounding",
    "save_adapter",
    "save_decoder",
    "stored_dtype",
]
