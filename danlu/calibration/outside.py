"""What is not in a block: embedding, norms, projections and the head."""

import torch

from danlu.calibration.block import LayerResult
from danlu.calibration.layer_error import weight_error
from danlu.calibration.plan import HEAD, Plan
from danlu.config.quantize.scheme import QuantScheme
from danlu.loading.blocks import StoredModel
from danlu.loading.layout import EMBEDDING
from danlu.nn.linear import Linear
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.rounding.weights import input_rounding, quantize_weight

CPU = torch.device("cpu")


def load_outside(model: StoredModel, plan: Plan, dtype: torch.dtype) -> list[LayerResult]:
    """Give a decoder all weights outside its blocks; return what became of those that are rounded.

    Args:
        model: the checkpoint; embedding and head stay in the dtype they are stored in.
        plan: which of them are rounded.
        dtype: of the others.

    Raises:
        CheckpointError: if a tied head is stored and is not the embedding.
        QuantizationError: if a weight is not finite.
    """
    model.check_tied_head()
    for module in ("project_in", "embed_positions", "embed_norm", "norm", "project_out"):
        model.fill(f"model.{module}", dtype, CPU)
    model.fill("model.embed_tokens", model.dtype, CPU)
    rounded = plan.outside()
    if HEAD not in rounded and not model.decoder.config.tie_word_embeddings:
        model.fill(HEAD, model.dtype, CPU)
    return [_round(model, name, scheme, dtype) for name, scheme in rounded.items()]


def _round(model: StoredModel, name: str, scheme: QuantScheme, dtype: torch.dtype) -> LayerResult:
    """Round a layer that is one published tensor; as loading does it, from the stored numbers."""
    layer = model.decoder.get_submodule(name)
    assert isinstance(layer, Linear)
    tied = name == HEAD and model.decoder.config.tie_word_embeddings
    stored = model.stored(EMBEDDING if tied else f"{name}.weight")
    dense = layer.effective(stored if scheme.is_code_book else stored.float())
    weight = quantize_weight(dense, scheme, name)
    rounded = QuantizedLinear(weight, layer.bias, dtype, input_rounding(scheme))
    model.decoder.replace_linear(name, rounded)
    error = weight_error(dense, weight)
    return LayerResult(name, scheme.summary, weight.bits, error, weight.nbytes)
