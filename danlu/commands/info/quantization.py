"""How a folder is quantized, in words, from its configs alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu.errors import CheckpointError, QuantizationError
from danlu.loading.quantized import FILES_BESIDE, quantization_config
from danlu.quantize.format import find_format


def quantization_words(folder: Path, values: Mapping[str, Any]) -> str | None:
    """Return how the weights of a folder are quantized, and where that is said; None: they are not.

    What is wrong with it is told among the problems of the weights.

    Args:
        folder: of the checkpoint.
        values: its config.json.
    """
    try:
        config = quantization_config(folder, values)
    except (QuantizationError, CheckpointError):
        return "in a way that cannot be read"
    if config is None:
        return None
    try:
        words = find_format(config).summary(config)
    except QuantizationError:
        return f"as {config.get('quant_method', 'an unnamed method')!r}, which is not read"
    if values.get("quantization_config", values.get("compression_config")):
        return words
    beside = next(name for name in FILES_BESIDE if (folder / name).exists())
    return f"{words}, as {beside} says"
