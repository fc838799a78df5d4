"""Layers that are trained whole although the base keeps them quantized or packed."""

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.adapters.attached import Adaptable
from danlu.adapters.wrappers import AdaptedLinear, original, stored_weight
from danlu.adapters.wrapping import Replacement, Wrapped, plain_parameter, unwrapped
from danlu.nn.linear import LinearLike


class WholeLinear(AdaptedLinear):
    """A weight of its own in the place of one that takes no gradient; the bias is the base's.

    Args:
        base: the layer, quantized or packed.
        weight: [out, in], in the dtype of the model.
    """

    def __init__(self, base: LinearLike, weight: nn.Parameter) -> None:
        super().__init__(base)
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the product in the dtype of `x`."""
        plain = original(self)
        product = F.linear(x, self.weight.to(x.dtype))
        if plain is not self.base:  # what the wrappers under this one add stays
            out: Tensor = self.base(x) + (product - (plain(x) - _bias_or_zero(plain)))
            return out
        return product + _bias_or_zero(plain)

    def change(self, weight_OI: Tensor) -> Tensor:
        """Return the float32 change of the weight: all of it."""
        return self.weight.float() - weight_OI

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained in this wrapper."""
        return [self.weight]


def _bias_or_zero(layer: LinearLike) -> Tensor | float:
    bias = layer.bias_or_none()
    return 0.0 if bias is None else bias


def in_place_of(
    model: Adaptable, name: str, tensor: Tensor | None = None
) -> Replacement | tuple[str, Wrapped] | None:
    """Return what trains the parameter `name` of the base whole.

    Args:
        model: the base, left as it is.
        name: of the parameter.
        tensor: what it begins as; None: as the base has it.

    Returns:
        A parameter in its place; around a layer whose weight is no parameter, a wrapper with its
        slot; None if there is nothing of that name.
    """
    base = plain_parameter(model, name)
    slot, _, leaf = name.rpartition(".")
    if base is not None:
        return Replacement(name, nn.Parameter(_own(base if tensor is None else tensor, base)))
    try:
        layer = unwrapped(model.get_submodule(slot))
    except AttributeError:
        return None
    if leaf != "weight" or not isinstance(layer, LinearLike):
        return None
    dense = stored_weight(layer).detach()
    weight = nn.Parameter(_own(dense if tensor is None else tensor, dense))
    outermost = model.get_submodule(slot)
    assert isinstance(outermost, LinearLike)
    return slot, WholeLinear(outermost, weight)


def base_tensor(model: Adaptable, name: str) -> Tensor:
    """Return the weight or bias called `name` in the base, dequantized where it is quantized."""
    parameter = plain_parameter(model, name)
    if parameter is not None:
        return parameter.detach()
    layer = unwrapped(model.get_submodule(name.rpartition(".")[0]))
    assert isinstance(layer, LinearLike)
    return stored_weight(layer).detach()


def _own(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.detach().to(like.device, like.dtype, copy=True).contiguous()
