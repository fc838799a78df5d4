"""Adapters read onto a decoder and written beside it, in the names of its published layout."""

from pathlib import Path

from danlu.adapters.peft_format import read_adapter, write_adapter
from danlu.loading.layout import published_layout
from danlu.models.decoder import Decoder


def load_adapter(decoder: Decoder, folder: str | Path) -> list[str]:
    """Attach the PEFT LoRA adapter in `folder`; return the names of the adapted layers.

    Raises:
        AdapterError: with everything that does not fit the base.
    """
    return read_adapter(decoder, published_layout(decoder).entries, Path(folder))


def save_adapter(decoder: Decoder, folder: str | Path, base: str | Path) -> None:
    """Write the attached adapters into `folder` in PEFT's format.

    Args:
        decoder: with adapters attached.
        folder: made if needed.
        base: path or id of the model that the adapter belongs to.

    Raises:
        AdapterError: if there is no adapter.
    """
    write_adapter(decoder, published_layout(decoder).entries, Path(folder), str(base))
