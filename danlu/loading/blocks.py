"""A checkpoint whose weights are read when they are asked for, so that one block takes memory.

Nothing is rounded or fused on the way: who asks gets the dense numbers that are stored.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from danlu.errors import CheckpointError, QuantizationError, bullet_list, did_you_mean
from danlu.hub import resolve
from danlu.loading.building import (
    decoder_from_config,
    family_named,
    family_of_folder,
    read_json,
    read_model_config,
)
from danlu.loading.layout import EMBEDDING, HEAD, published_layout
from danlu.loading.quantized import quantization_of
from danlu.models.published import Published
from danlu.weights.files import WeightFile, find_weight_files
from danlu.weights.rules import Entry, Layout

COMPUTED = (torch.float32, torch.bfloat16, torch.float16)


class StoredModel:
    """A decoder on the meta device, and the files that its parameters are in.

    Args:
        path: folder of the checkpoint, or the id of a downloaded model.
        family: name of the family, where config.json does not tell it.

    Attributes:
        folder: of the checkpoint.
        decoder: without weights; `fill` gives a part of it some.
        layout: its published tensors.

    Raises:
        UnsupportedModelError: if no family opens the folder.
        CheckpointError: with everything that is missing, left over or misshapen.
        QuantizationError: if it is quantized already.
    """

    def __init__(self, path: str | Path, family: str | None = None) -> None:
        self.folder = resolve(path)
        values = read_model_config(self.folder)
        self._refuse_quantized(quantization_of(self.folder, values) is not None)
        self.decoder = decoder_from_config(values, family_of_folder(self.folder, values, family))
        assert self.decoder.published is not None
        self._family = family_named(self.decoder.published.family)
        self.layout: Layout = published_layout(self.decoder)
        self._places = self._find()
        self.decoder.published = self._published(self.decoder.published)
        self.decoder.eval()

    def _refuse_quantized(self, is_quantized: bool) -> None:
        if is_quantized:
            raise QuantizationError(
                f"'{self.folder}' is quantized already; what was rounded away does not come back. "
                "Expected the original: quantize that."
            )

    # ------------------------------------------------------------ what is in the files

    def _find(self) -> dict[str, tuple[WeightFile, str]]:
        """Return where each published tensor is: its file, and its name there."""
        places: dict[str, tuple[WeightFile, str]] = {}
        problems = []
        for file in find_weight_files(self.folder):
            for stored in file.names():
                entry, shape = self._entry(stored), file.read(stored).shape
                if entry is not None:
                    places[entry.published] = (file, stored)
                    if shape != entry.shape:
                        problems.append(
                            f"{stored} in {file.path.name} is {list(shape)}; config.json asks for "
                            f"{list(entry.shape)}."
                        )
                elif not self._family.ignores(stored, self._values):
                    problems.append(
                        f"{stored} {list(shape)} in {file.path.name} belongs to no parameter."
                        f"{did_you_mean(stored, self.layout.entries)}"
                    )
        problems += [
            f"{name} {list(entry.shape)} is missing."
            for name, entry in self.layout.entries.items()
            if name not in places and not self._is_tied_head(entry)
        ]
        self._check(problems)
        return places

    def _check(self, problems: list[str]) -> None:
        if problems:
            raise CheckpointError(
                f"The weights in '{self.folder}' do not fit a model of family "
                f"{self._family_name!r} with this config.json:{bullet_list(problems)}\n"
                "Check that config.json belongs to these weights and that all files are complete."
            )

    def _entry(self, stored: str) -> Entry | None:
        prefix = self._family.optional_prefix or ""
        return self.layout.entries.get(stored) or self.layout.entries.get(prefix + stored)

    def _is_tied_head(self, entry: Entry) -> bool:
        return self.decoder.config.tie_word_embeddings and entry.ours == (HEAD,)

    @property
    def _family_name(self) -> str:
        assert self.decoder.published is not None
        return self.decoder.published.family

    @property
    def _values(self) -> dict[str, object]:
        assert self.decoder.published is not None
        return dict(self.decoder.published.config)

    def _published(self, known: Published) -> Published:
        generation = self.folder / "generation_config.json"
        return Published(
            family=known.family,
            config=known.config,
            generation_config=read_json(generation) if generation.exists() else None,
            has_prefix=all(name == stored for name, (_, stored) in self._places.items()),
            dtypes={name: self._read(name).dtype for name in self._places},
            stores_tied_head=any(self._is_tied_head(self.layout.entries[n]) for n in self._places),
            folder=self.folder,
        )

    def _read(self, published: str) -> Tensor:
        file, stored = self._places[published]
        return file.read(stored)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of most numbers; float32 where decoders do not compute in it."""
        counts: Counter[torch.dtype] = Counter()
        for name in self._places:
            counts[self._read(name).dtype] += self._read(name).numel()
        most = max(counts, key=lambda dtype: counts[dtype])
        return most if most in COMPUTED else torch.float32

    def stored(self, ours: str) -> Tensor:
        """Return one of our parameters as it is stored, mapped from the file until it is copied."""
        entry = next(entry for entry in self.layout.entries.values() if ours in entry.ours)
        return entry.load(self._read(entry.published))[ours]

    # ------------------------------------------------------------ giving weights to a decoder

    def fill(self, module: str, dtype: torch.dtype, device: torch.device) -> None:
        """Give every parameter of one part of the decoder its stored numbers.

        Args:
            module: name of the part, such as ``model.layers.3``.
            dtype: of the parameters; those that a module wants in float32 have it anyway.
            device: where they go.
        """
        for entry in self._entries_of(module):
            for ours, part in entry.load(self._read(entry.published)).items():
                self._put(ours, part, dtype, device)
            file, stored = self._places[entry.published]
            file.give_back(stored)

    def _entries_of(self, module: str) -> Iterator[Entry]:
        for entry in self.layout.entries.values():
            if entry.ours[0].startswith(f"{module}.") and entry.published in self._places:
                yield entry

    def _put(self, name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        owner, _, leaf = name.rpartition(".")
        module = self.decoder.get_submodule(owner)
        exact = leaf in getattr(module, "kept_in_float32", ())
        own = tensor.to(device, torch.float32 if exact else dtype, copy=True).contiguous()
        module.register_parameter(leaf, nn.Parameter(own, requires_grad=False))

    def check_tied_head(self) -> None:
        """Check that a head that is stored, though it is tied, is the embedding.

        Raises:
            CheckpointError: if it differs.
        """
        for name, entry in self.layout.entries.items():
            if name in self._places and self._is_tied_head(entry):
                head, embedding = self.stored(HEAD), self.stored(EMBEDDING)
                if not torch.equal(head.to(embedding), embedding):
                    self._check(["the head differs from the embedding, but both are tied."])
