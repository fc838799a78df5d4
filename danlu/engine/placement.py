"""Where a model runs, in which dtype and with which cache, when the user does not say."""

import logging
from pathlib import Path
from typing import get_args

import torch

from danlu.config.quantize.kv_cache import KvCacheName
from danlu.errors import ConfigError, did_you_mean
from danlu.loading import read_model_config, stored_dtype
from danlu.loading.devices import choose_device
from danlu.models.decoder import Decoder
from danlu.nn.cache_rounding import TokenRounding

__all__ = ["DTYPES", "choose_cache", "choose_device", "choose_dtype", "named_dtype"]

log = logging.getLogger(__name__)

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


def choose_dtype(dtype: str | torch.dtype, folder: Path, device: torch.device) -> torch.dtype:
    """Return the dtype to compute in; "auto": the checkpoint's own where the device is fit for it.

    A float16 checkpoint runs in bfloat16 on a CPU: as small and fast there, where float16 is not.
    That rounds the weights from 11 significant bits to 8; ask for "float32" to keep them exactly. A
    bfloat16 checkpoint runs in float16 on a GPU without bfloat16. Float32 stays, and so it is for
    weights stored in anything else. The weights are asked, not config.json, whose `torch_dtype`
    often survives a conversion that it no longer describes.

    Raises:
        ConfigError: if the name is not one of a dtype that decoders compute in.
        CheckpointError: if the folder is no checkpoint.
    """
    if dtype != "auto":
        return named_dtype(dtype)
    read_model_config(folder)  # a path that is no checkpoint is best explained here
    stored = stored_dtype(folder)
    if stored == torch.float16 and device.type == "cpu":
        log.info("'%s' holds float16 weights; they are rounded to bfloat16 on the CPU.", folder)
        return torch.bfloat16
    if stored == torch.bfloat16 and device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return stored if stored in DTYPES.values() else torch.float32


def named_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the dtype of a name such as "bf16".

    Raises:
        ConfigError: if decoders do not compute in it.
    """
    if dtype in DTYPES.values():
        assert isinstance(dtype, torch.dtype)
        return dtype
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    raise ConfigError(
        f"The dtype {dtype!r} is unknown; expected 'auto' or one of {', '.join(DTYPES)}."
    )


def choose_cache(decoder: Decoder, kv_cache: KvCacheName | None) -> None:
    """Let a decoder keep keys and values as asked; None: as its folder says.

    Raises:
        ConfigError: if there is no such cache.
    """
    known = get_args(KvCacheName)
    if kv_cache not in (None, *known):
        raise ConfigError(
            f"There is no cache {kv_cache!r}.{did_you_mean(str(kv_cache), known)} "
            f"Expected {' or '.join(map(repr, known))}, or None for what the folder says."
        )
    if kv_cache == "plain":
        decoder.kv_cache = None
    elif kv_cache == "int8" and decoder.kv_cache is None:
        decoder.kv_cache = TokenRounding()
