"""Weights streamed into a decoder that was built on the meta device."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Size, Tensor, nn

from danlu.config.quantize import QuantScheme, preset
from danlu.errors import CheckpointError, bullet_list, did_you_mean
from danlu.hub import resolve
from danlu.loading.adapting import load_adapter
from danlu.loading.building import (
    LinearFactory,
    decoder_from_config,
    family_named,
    family_of_folder,
    packed,
    read_json,
    read_model_config,
    rounding,
)
from danlu.loading.fusing import Fusion
from danlu.loading.layout import EMBEDDING, HEAD, published_layout
from danlu.models.decoder import Decoder
from danlu.models.published import Published
from danlu.nn.embedding import StoredEmbedding
from danlu.nn.linear import Linear
from danlu.quantize.format import QuantFormat, find_format
from danlu.quantize.linear import QuantizedLinear
from danlu.weights.casting import cast
from danlu.weights.files import WeightFile, find_weight_files, stream
from danlu.weights.memory import freed_blocks_returned
from danlu.weights.rules import Entry


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
        quantize: round the linear layers to integers while they stream in: "int8", "int4" or a
            scheme.
        family: name of the family, where config.json does not tell it.
        for_inference: fuse the projections of a block that share an input, and lay weights out as
            this machine's kernels want them; the decoder can then neither be trained nor saved.

    Raises:
        UnsupportedModelError: if no family opens the folder.
        CheckpointError: with everything that is wrong with its config or its weights.
    """
    folder = resolve(path)
    values = read_model_config(folder)
    decoder = decoder_from_config(values, family_of_folder(folder, values, family))
    convert: LinearFactory | None = packed if for_inference else None
    if quantize is not None:
        convert = rounding(preset(quantize) if isinstance(quantize, str) else quantize)
    fuse = for_inference and adapter is None
    with freed_blocks_returned():
        WeightReader(
            folder,
            decoder,
            dtype,
            torch.device(device),
            convert,
            fuse=fuse,
            for_inference=for_inference,
        ).run()
    if adapter is not None:
        load_adapter(decoder, Path(adapter))
    decoder.prepared_for_inference = for_inference
    return decoder.eval()


def stored_dtype(path: str | Path) -> torch.dtype:
    """Return the dtype that most of a checkpoint's floating-point numbers are stored in."""
    counts: dict[torch.dtype, int] = {}
    for _, tensor, _ in stream(find_weight_files(Path(path))):
        if tensor.is_floating_point():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return max(counts, key=lambda dtype: counts[dtype], default=torch.float32)


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
        self.fusion = Fusion(decoder, convert, dtype, device) if fuse and convert else None
        self.published = decoder.published
        self.family = family_named(self.published.family)
        self.layout = published_layout(decoder)
        self.quantization = self.published.config.get("quantization_config")
        self.format, self.suffixes = _quant_format(self.quantization)
        self.problems: list[str] = []
        self.dtypes: dict[str, torch.dtype] = {}
        self.unprefixed = False
        self.tied_head: Tensor | None = None

    def run(self) -> None:
        """Stream every file into the decoder and complete it.

        Raises:
            CheckpointError: if anything is missing, left over, misshapen or damaged.
        """
        files = find_weight_files(self.folder)
        waiting = _Layers(self.suffixes, [name for file in files for name in file.names()])
        for name, tensor, path in stream(files):
            if parts := waiting.complete_with(name, tensor):
                self._accept_quantized(name.rpartition(".")[0], parts)
            elif not waiting.holds(name):
                self._accept(name, tensor, path)
        self._check_complete(files)
        if not self.convert:
            self.decoder.tie_head()
        self._record()

    def _accept(self, name: str, tensor: Tensor, path: Path) -> None:
        entry = self._entry(name)
        if entry is None:
            if not self.family.ignores(name, self.published.config):
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
        elif entry.ours == (EMBEDDING,) and self.convert:
            self._accept_embedding(self.convert, tensor)
        else:
            for ours, part in entry.load(tensor).items():
                self._put(ours, part)

    def _accept_embedding(self, convert: LinearFactory, tensor: Tensor) -> None:
        """Keep the embedding mapped from the file, so that only rows looked up take memory."""
        if self.decoder.config.tie_word_embeddings:
            head = cast(tensor, self.dtype, self.device)
            self.decoder.lm_head = convert("lm_head", head, None)
        if self.for_inference and self.device.type == "cpu":
            self.decoder.model.embed_tokens = StoredEmbedding(tensor, self.dtype)
        else:
            self._put(EMBEDDING, tensor)

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
        assert self.format is not None
        entry = self._entry(f"{module}.weight")
        if entry is None:
            names = ", ".join(parts)
            self.problems.append(f"{module} ({names}) belongs to no linear layer.")
            return
        self.dtypes[entry.published] = self.dtype
        missing = set(self.format.required) - parts.keys()
        if missing:
            self.problems.append(f"{module} lacks {', '.join(sorted(missing))}.")
            return
        weight = self.format.decode(parts, self.quantization or {})
        wanted = entry.arrangement.rows.fused_shape(entry.shapes)
        if weight.codes.shape != wanted:
            self.problems.append(
                f"{module} holds a {_shape(weight.codes.shape)} weight; "
                f"config.json asks for {_shape(wanted)}."
            )
            return
        for i, ours in enumerate(entry.ours):
            owner = ours.removesuffix(".weight")
            part = weight.map_rows(partial(_part, entry, i)).to(self.dtype)
            bias = getattr(self.decoder.get_submodule(owner), "bias", None)
            self.decoder.replace_linear(owner, QuantizedLinear(part, bias).to(self.device))

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
        if self.problems:
            names = ", ".join(file.path.name for file in files)
            raise CheckpointError(
                f"The weights in '{self.folder}' ({names}) do not fit a model of family "
                f"{self.published.family!r} with this config.json:{bullet_list(self.problems)}\n"
                "Check that config.json belongs to these weights and that all files are complete."
            )

    def _record(self) -> None:
        generation = self.folder / "generation_config.json"
        self.decoder.published = Published(
            family=self.published.family,
            config=self.published.config,
            generation_config=read_json(generation) if generation.exists() else None,
            has_prefix=not self.unprefixed,
            dtypes=self.dtypes,
            stores_tied_head=self.tied_head is not None,
        )


class _Layers:
    """The tensors of quantized layers, held until all parts of a layer have arrived."""

    def __init__(self, suffixes: Sequence[str], names: Sequence[str]) -> None:
        self._suffixes = suffixes
        self._expected: dict[str, set[str]] = {}
        self._parts: dict[str, dict[str, Tensor]] = {}
        for name in filter(self.holds, names):
            module, _, leaf = name.rpartition(".")
            self._expected.setdefault(module, set()).add(leaf)

    def holds(self, name: str) -> bool:
        """Return whether a tensor is part of a quantized layer."""
        return name.rpartition(".")[2] in self._suffixes

    def complete_with(self, name: str, tensor: Tensor) -> dict[str, Tensor] | None:
        """Keep a part; return all parts of its layer if it was the last one."""
        if not self.holds(name):
            return None
        module, _, leaf = name.rpartition(".")
        self._parts.setdefault(module, {})[leaf] = tensor.clone()
        if self._parts[module].keys() != self._expected[module]:
            return None
        return self._parts.pop(module)


def _quant_format(config: Any) -> tuple[QuantFormat | None, Sequence[str]]:
    if config is None:
        return None, ()
    found = find_format(config)
    return found, found.tensors(config)


def _part(entry: Entry, i: int, rows: Tensor) -> Tensor:
    """Return what of `rows` (one per output of the published layer) belongs to our layer `i`."""
    if len(entry.ours) == 1:
        return rows
    return entry.arrangement.rows.split(rows, entry.shapes)[i].contiguous()


def _shape(shape: Size) -> str:
    return f"[{', '.join(map(str, shape))}]"
