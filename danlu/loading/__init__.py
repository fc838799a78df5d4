"""The composition root: a path becomes a decoder, and a decoder a folder.

Order applied to a model: build on meta -> swap linears (quantized or packed) -> stream the weights
in, each tensor renamed, split, cast and converted as it arrives -> check that nothing is missing or
left over -> attach the adapter. Peak host memory is the model plus its largest tensor.
"""

from danlu.loading.adapting import (
    adapter_names,
    attach_adapter,
    base_fingerprint,
    disabled,
    load_adapter,
    lr_scales,
    merge_adapters,
    save_adapter,
    train_only,
    unmerge_adapters,
)
from danlu.loading.building import (
    LinearFactory,
    decoder_from_config,
    new_decoder,
    read_model_config,
    rounding,
)
from danlu.loading.quantized import dequantize, take_exact_inputs
from danlu.loading.reading import load_decoder, stored_dtype
from danlu.loading.saving import save_decoder
from danlu.loading.tokenizers import check_rows, load_tokenizer

__all__ = [
    "LinearFactory",
    "adapter_names",
    "attach_adapter",
    "base_fingerprint",
    "check_rows",
    "decoder_from_config",
    "dequantize",
    "disabled",
    "load_adapter",
    "load_decoder",
    "load_tokenizer",
    "lr_scales",
    "merge_adapters",
    "new_decoder",
    "read_model_config",
    "rounding",
    "save_adapter",
    "save_decoder",
    "stored_dtype",
    "take_exact_inputs",
    "train_only",
    "unmerge_adapters",
]
