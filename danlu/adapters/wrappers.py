"""What stands around a layer of the base: it computes what the layer does, changed.

Wrappers nest, and their changes of the weight add up: each change is that of the *original* layer
under all wrappers, so that the order does not matter and the base is never rounded on the way.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from danlu.nn.embedding import TokenEmbedding
from danlu.nn.linear import Linear, LinearLike


class AdaptedLinear(LinearLike):
    """A linear layer with a change of its weight.

    Args:
        base: the layer, dense or quantized, or another wrapper around it.
    """

    def __init__(self, base: LinearLike) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base = base

    @abstractmethod
    def change(self, weight_OI: Tensor) -> Tensor:
        """Return the float32 change [out, in] of a float32 weight."""

    @abstractmethod
    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained in this wrapper."""

    def bias_change(self, bias_O: Tensor) -> Tensor:
        """Return the float32 change [out] of a float32 bias."""
        return torch.zeros_like(bias_O)

    def dense_weight(self) -> Tensor:
        """Return the weight with all changes, added up in float32, in the dtype of the base."""
        weight_OI = self._stored()
        base = original(self)
        return base.effective(weight_OI) if isinstance(base, Linear) else weight_OI

    def _stored(self) -> Tensor:
        """Return the changed weight as a checkpoint stores it."""
        base = original(self)
        weight_OI = stored_weight(base)
        wide_OI = weight_OI.float()
        return sum((w.change(wide_OI) for w in chain(self)), wide_OI).to(weight_OI.dtype)

    def bias_or_none(self) -> Tensor | None:
        """Return the bias with all changes."""
        bias_O = original(self).bias_or_none()
        if bias_O is None:
            return None
        wide_O = bias_O.float()
        return sum((w.bias_change(wide_O) for w in chain(self)), wide_O).to(bias_O.dtype)

    def merged(self) -> LinearLike:
        """Return a dense layer that computes the same.

        The changes are added to what the adapter saw: a quantized base is dequantized.
        """
        base = original(self)
        kind = type(base) if isinstance(base, Linear) else Linear
        with torch.device("meta"):
            dense = kind(self.in_features, self.out_features)
        return _filled(dense, self._stored(), self.bias_or_none())


class AdaptedEmbedding(TokenEmbedding):
    """A token embedding with a change of its vectors.

    Args:
        base: the embedding, or another wrapper around it.
    """

    def __init__(self, base: TokenEmbedding) -> None:
        nn.Module.__init__(self)
        self.base = base

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """The weight of the base, unchanged."""
        weight: nn.Parameter = self.base.weight
        return weight

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the vectors it gives."""
        return self.base.dtype

    @abstractmethod
    def change(self, weight_VD: Tensor) -> Tensor:
        """Return the float32 change [V, D] of a float32 weight."""

    @abstractmethod
    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained in this wrapper."""

    def merged(self) -> TokenEmbedding:
        """Return a plain embedding with all changes, added up in float32."""
        base = original_embedding(self)
        wide_VD = base.weight.float()
        weight_VD = sum((w.change(wide_VD) for w in embedding_chain(self)), wide_VD)
        with torch.device("meta"):
            plain = TokenEmbedding(*weight_VD.shape)
        plain.weight = nn.Parameter(weight_VD.to(base.dtype), requires_grad=False)
        return plain


def chain(layer: LinearLike) -> list[AdaptedLinear]:
    """Return the wrappers of a layer, outermost last."""
    if not isinstance(layer, AdaptedLinear):
        return []
    return [*chain(layer.base), layer]


def original(layer: LinearLike) -> LinearLike:
    """Return the layer of the base under all wrappers."""
    return original(layer.base) if isinstance(layer, AdaptedLinear) else layer


def stored_weight(layer: LinearLike) -> Tensor:
    """Return the weight [out, in] that adapters change: as it is stored, or dequantized."""
    return layer.weight if isinstance(layer, Linear) else layer.dense_weight()


def embedding_chain(embedding: TokenEmbedding) -> list[AdaptedEmbedding]:
    """Return the wrappers of an embedding, outermost last."""
    if not isinstance(embedding, AdaptedEmbedding):
        return []
    return [*embedding_chain(embedding.base), embedding]


def original_embedding(embedding: TokenEmbedding) -> TokenEmbedding:
    """Return the embedding of the base under all wrappers."""
    if isinstance(embedding, AdaptedEmbedding):
        return original_embedding(embedding.base)
    return embedding


def _filled(linear: Linear, weight_OI: Tensor, bias_O: Tensor | None) -> Linear:
    linear.weight = nn.Parameter(weight_OI.detach(), requires_grad=False)
    linear.bias = None if bias_O is None else nn.Parameter(bias_O.detach(), requires_grad=False)
    return linear
