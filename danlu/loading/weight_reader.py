"""Weights streamed into a decoder that was built on the meta device."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Size, Tensor, nn

from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import CheckpointError, QuantizationError, bullet_list, did_you_mean
from danlu.loading.building import LinearFactory, family_named, read_json, scheme_for
from danlu.loading.fusing import Fusion
from danlu.loading.kv_cache import CacheScales, noted_rounding
from danlu.loading.layout import EMBEDDING, HEAD, published_layout
from danlu.loading.quantized import Layers, Quantization, rows_of
from danlu.models.decoder import Decoder
from danlu.models.published import Published
from danlu.nn.embedding import StoredEmbedding
from danlu.nn.linear import Linear
from danlu.quantize.activations import InputRounding
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.rounding.weights import quantize_weight
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.casting import cast
from danlu.weights.files import WeightFile, find_weight_files, stream
from danlu.weights.rules import Entry


class WeightReader:
    """One run over the files of a checkpoint; every problem is collected and raised at the end."""

    def __init__(
        self,
        folder: Path,
        decoder: Decoder,
        dtype: torch.dtype,
        device: torch.device,
        convert: LinearFactory | None,
        *,
        quantization: Quantization | None,
        blockwise: QuantScheme | None,
        fuse: bool,
        for_inference: bool,
    ) -> None:
        assert decoder.published is not None
        self.folder = folder
        self.decoder = decoder
        self.dtype = dtype
        self.device = device
        self.convert = convert
        self.for_inference = for_inference
        self.quantization = quantization
        self.blockwise = blockwise
        # Quantized layers are fused where rows are rounded alone, so that nothing else changes.
        fuse = fuse and quantization is None and blockwise is None
        self.fusion = Fusion(decoder, convert, dtype, device) if fuse and convert else None
        self.published = decoder.published
        self.family = family_named(self.published.family)
        self.layout = published_layout(decoder)
        self.cache_scales = CacheScales(decoder, quantization.config if quantization else None)
        self.problems: list[str] = []
        self.dtypes: dict[str, torch.dtype] = {}
        self.unprefixed = False
        self.tied_head: Tensor | None = None
        self.quantized: dict[str, torch.dtype] = {}

    def run(self) -> None:
        """Stream every file into the decoder and complete it.

        Raises:
            CheckpointError: if anything is missing, left over, misshapen or damaged.
        """
        files = find_weight_files(self.folder)
        layers = Layers(self.quantization, [name for file in files for name in file.names()])
        for name, tensor, path in stream(files):
            if complete := layers.complete_with(name, tensor):
                self._accept_quantized(*complete)
            elif layers.holds(name) or self.cache_scales.take(name, tensor):
                continue
            elif not self._is_zero_bias(name, tensor, layers):
                self._accept(name, tensor, path)
        self._check_complete(files)
        if not self.convert:
            self.decoder.tie_head()
        self._record()

    def _accept(self, name: str, tensor: Tensor, path: Path) -> None:
        entry = self._entry(name)
        if entry is None:
            if not self._ignores(name):
                self.problems.append(
                    f"{name} {_shape(tensor.shape)} in {path.name} belongs to no parameter."
                    f"{did_you_mean(name, self.layout.entries)}"
                )
            return
        self.dtypes[entry.published] = tensor.dtype
        if tensor.shape != entry.shape:
            self.problems.append(
                f"{name} in {path.name} is {_shape(tensor.shape)}; "
                f"config.json asks for {_shape(entry.shape)}."
            )
        elif self._is_tied_head(entry):
            self.tied_head = tensor.clone()
        elif entry.ours == (EMBEDDING,) and (self.convert or self.blockwise):
            self._accept_embedding(tensor)
        elif (rounded := self._rounded(entry, tensor)) is not None:
            self._put_quantized(entry, rounded)
        else:
            for ours, part in entry.load(tensor).items():
                self._put(ours, part)

    def _ignores(self, name: str) -> bool:
        known = self.quantization is not None and self.quantization.ignores(name)
        return known or self.family.ignores(name, self.published.config)

    def _is_zero_bias(self, name: str, tensor: Tensor, layers: Layers) -> bool:
        """Return whether a quantizing tool gave a bias of zeros to a layer that has none."""
        module, _, leaf = name.rpartition(".")
        added = leaf == "bias" and layers.has(module) and self._entry(name) is None
        return added and not bool(tensor.any())

    def _rounded(self, entry: Entry, tensor: Tensor) -> QuantizedWeight | None:
        """Return a published weight in a code book; None if it stays as it is.

        It is rounded whole, as it is stored: blocks belong to the published tensor, and its codes
        do not depend on the dtype that the decoder computes in.
        """
        owners = [ours.rpartition(".")[0] for ours in entry.ours]
        modules = [self.decoder.get_submodule(owner) for owner in owners]
        layers = [module for module in modules if isinstance(module, Linear)]
        scheme = self.blockwise and scheme_for(owners[0], self.blockwise)
        is_weight = entry.published.endswith(".weight")
        if scheme is None or len(layers) < len(modules) or not is_weight:
            return None
        parts = entry.load(tensor.to(self.device)).values()
        dense = [layer.effective(part) for layer, part in zip(layers, parts, strict=True)]
        return quantize_weight(entry.arrangement.rows.join(dense), scheme, entry.published)

    def _accept_embedding(self, tensor: Tensor) -> None:
        """Keep the embedding mapped from the file, so that only rows looked up take memory."""
        if self.decoder.config.tie_word_embeddings:
            self._accept_tied_head(tensor)
        if self.for_inference and self.device.type == "cpu":
            self.decoder.model.embed_tokens = StoredEmbedding(tensor, self.dtype)
        else:
            self._put(EMBEDDING, tensor)

    def _accept_tied_head(self, tensor: Tensor) -> None:
        """Make the head a layer of its own, if it is converted or rounded."""
        rounded = self._rounded(self.layout.entries[self._head_name()], tensor)
        if rounded is not None:
            self.decoder.lm_head = self._quantized_linear(rounded, None)
        elif self.convert:
            head = cast(tensor, self.dtype, self.device)
            self.decoder.lm_head = self.convert("lm_head", head, None)

    def _head_name(self) -> str:
        return next(name for name, entry in self.layout.entries.items() if entry.ours == (HEAD,))

    def _entry(self, name: str) -> Entry | None:
        entry = self.layout.entries.get(name)
        if entry is None and self.family.optional_prefix:
            entry = self.layout.entries.get(self.family.optional_prefix + name)
            self.unprefixed |= entry is not None
        return entry

    def _put(self, name: str, tensor: Tensor) -> None:
        """Make `tensor` the parameter `name`, or a converted linear layer of it."""
        owner, _, leaf = name.rpartition(".")
        if self.fusion and self.fusion.take(owner, leaf, tensor):
            return
        module = self.decoder.get_submodule(owner)
        if leaf == "weight" and isinstance(module, Linear) and self.convert:
            weight = module.effective(cast(tensor, self.dtype, self.device))
            self.decoder.replace_linear(owner, self.convert(owner, weight, module.bias))
        else:  # copied, so that no page of the file stays mapped
            exact = leaf in getattr(module, "kept_in_float32", ())
            dtype = torch.float32 if exact else self.dtype
            own = tensor.to(self.device, dtype, copy=True).contiguous()
            module.register_parameter(leaf, nn.Parameter(own))

    def _accept_quantized(self, module: str, parts: Mapping[str, Tensor]) -> None:
        """Build the layers of one published module from its quantized tensors."""
        assert self.quantization is not None
        entry = self._entry(f"{module}.weight")
        if entry is None:
            names = ", ".join(parts)
            self.problems.append(f"{module} ({names}) belongs to no linear layer.")
            return
        self.dtypes[entry.published] = self.dtype
        try:
            weight = self.quantization.decode(parts)
            inputs = self.quantization.inputs(module, parts)
        except QuantizationError as error:
            self.problems.append(f"{module} {error}.")
            return
        wanted = entry.arrangement.rows.fused_shape(entry.shapes)
        if weight.shape != wanted:
            self.problems.append(
                f"{module} holds a {_shape(weight.shape)} weight; "
                f"config.json asks for {_shape(wanted)}."
            )
            return
        self.quantized[module] = weight.dtype
        self._put_quantized(entry, weight, inputs)

    def _put_quantized(
        self, entry: Entry, weight: QuantizedWeight, inputs: InputRounding | None = None
    ) -> None:
        for ours, part in zip(entry.ours, rows_of(entry, weight), strict=True):
            owner = ours.removesuffix(".weight")
            bias = getattr(self.decoder.get_submodule(owner), "bias", None)
            self.decoder.replace_linear(owner, self._quantized_linear(part, bias, inputs))

    def _quantized_linear(
        self,
        weight: QuantizedWeight,
        bias: nn.Parameter | None,
        inputs: InputRounding | None = None,
    ) -> QuantizedLinear:
        if isinstance(weight, IntegerGrid):
            # Weight-only kernels want scales in the dtype they compute in; elsewhere no bit of them
            # is lost.
            exact = torch.promote_types(weight.dtype, self.dtype)
            weight = weight.to(self.dtype if self.for_inference and inputs is None else exact)
        there = weight.with_tensors(moved(weight.tensors(), self.device))
        rounding = inputs and inputs.with_tensors(moved(inputs.tensors(), self.device))
        return QuantizedLinear(there, bias, self.dtype, rounding)

    def _is_tied_head(self, entry: Entry) -> bool:
        return self.decoder.config.tie_word_embeddings and entry.ours == (HEAD,)

    def _check_complete(self, files: Sequence[WeightFile]) -> None:
        for name, entry in self.layout.entries.items():
            if name not in self.dtypes and not self._is_tied_head(entry):
                self.problems.append(f"{name} {_shape(entry.shape)} is missing.")
        embedding = self.decoder.model.embed_tokens.weight
        if self.tied_head is not None and not embedding.is_meta:
            same = torch.equal(self.tied_head.to(embedding), embedding)
            if not same:
                self.problems.append("the head differs from the embedding, but both are tied.")
        fixed = self.cache_scales.rounding()
        self.problems += self.cache_scales.problems
        if self.problems:
            names = ", ".join(file.path.name for file in files)
            raise CheckpointError(
                f"The weights in '{self.folder}' ({names}) do not fit a model of family "
                f"{self.published.family!r} with this config.json:{bullet_list(self.problems)}\n"
                "Check that config.json belongs to these weights and that all files are complete."
            )
        self.decoder.kv_cache = fixed or noted_rounding(self.folder, self.decoder)

    def _record(self) -> None:
        generation = self.folder / "generation_config.json"
        self.decoder.published = Published(
            family=self.published.family,
            config=self.published.config,
            generation_config=read_json(generation) if generation.exists() else None,
            has_prefix=not self.unprefixed,
            dtypes=self.dtypes,
            stores_tied_head=self.tied_head is not None,
            quantization=self.quantization.config if self.quantization else None,
            quantized=self.quantized,
            folder=self.folder,
        )


def moved(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return tensors on a device."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _shape(shape: Size) -> str:
    return f"[{', '.join(map(str, shape))}]"
