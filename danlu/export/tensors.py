"""The tensors of another layout, made of a decoder one at a time."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from danlu.errors import ExportError
from danlu.export.dense import DenseState
from danlu.export.source import stored_dtypes, widest
from danlu.loading import decoder_from_config
from danlu.loading.building import dense
from danlu.loading.layout import HEAD, published_layout
from danlu.models.decoder import Decoder
from danlu.models.family import Reexpressed
from danlu.nn.linear import LinearLike
from danlu.weights.rules import Entry


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
