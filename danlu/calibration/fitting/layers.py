"""The linear layers of a model: which of them a run leaves open, and what the others take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Size

from danlu.calibration.fitting.candidates import (
    Candidate,
    header_bytes,
    stored_bytes,
    stored_parts,
)
from danlu.calibration.fitting.groups import groups_of_layers
from danlu.calibration.plan import HEAD, make_plan
from danlu.config.quantize.run import QuantizeRun
from danlu.config.quantize.scheme import QuantScheme
from danlu.loading.blocks import StoredModel

PROBES = (QuantScheme(bits=4, group_size=-1), QuantScheme(bits=8))


@dataclass(frozen=True)
class FittingLayers:
    """Linear layers by what is known of them.

    Attributes:
        shapes: of the weights [out, in] of all layers.
        decided: layers for which the run says how they are rounded, or that they are not.
        groups: other layers of blocks, in groups that need one scheme.
        head: whether the output head has a weight of its own, and is open too.
        itemsize: bytes of a dense weight.
        file_bytes: of all weights as they are, about.
    """

    shapes: Mapping[str, Size]
    decided: Mapping[str, Candidate]
    groups: Sequence[tuple[str, ...]]
    head: bool
    itemsize: int
    file_bytes: int

    def open(self) -> list[str]:
        """Return the layers to choose for."""
        inside = [name for group in self.groups for name in group]
        return [*inside, HEAD] if self.head else inside

    def undecided(self) -> list[str]:
        """Return the layers that the run says nothing about; some are never offered anything."""
        return [name for name in self.shapes if name not in self.decided]

    def decided_bytes(self) -> int:
        """Return the bytes of the layers that the run decides."""
        return sum(self.bytes_of([name], scheme) for name, scheme in self.decided.items())

    def bytes_of(self, layers: Sequence[str], candidate: Candidate) -> int:
        """Return the bytes that layers take."""
        return sum(self._bytes_of(name, candidate) for name in layers)

    def _bytes_of(self, name: str, candidate: Candidate) -> int:
        shape, parts = self.shapes[name], stored_parts(candidate)
        heads = sum(header_bytes(f"{name}.{part}", shape, self.file_bytes) for part in parts)
        return stored_bytes(shape, candidate, self.itemsize) + heads


def layers_of(model: StoredModel, run: QuantizeRun) -> FittingLayers:
    """Return the linear layers of a model as a run sees them.

    Raises:
        QuantizationError: if a pattern of the run matches nothing.
    """
    decoder, entries = model.decoder, model.layout.entries
    first, second = (
        make_plan(decoder, entries, run.model_copy(update={"scheme": probe})).schemes
        for probe in PROBES
    )
    # What the run's scheme does not move was decided by an override, or is skipped.
    decided = {name: scheme for name, scheme in first.items() if scheme == second[name]}
    tied = decoder.config.tie_word_embeddings
    if tied and decided.get(HEAD, HEAD) is None:
        del decided[HEAD]  # no tensor of its own
    groups = (tuple(n for n in group if n not in decided) for group in groups_of_layers(decoder))
    return FittingLayers(
        shapes={
            name: Size((layer.out_features, layer.in_features)) for name, layer in decoder.linears()
        },
        decided=decided,
        groups=[group for group in groups if group],
        head=HEAD not in decided and not tied,
        itemsize=model.dtype.itemsize,
        file_bytes=sum(entry.shape.numel() for entry in entries.values()) * model.dtype.itemsize,
    )
