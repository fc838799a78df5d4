"""How many inputs share a scale, and what fits a layer where a scheme leaves it open."""

from typing import Annotated

from pydantic import AfterValidator, Field

SIZES = (128, 64, 32)  # that kernels read, the usual one of a method and smaller ones
USUAL = {"rtn": 32, "gptq": 128, "awq": 128}


def _at_least_one_input(size: int) -> int:
    if size == 0:
        raise ValueError("group_size is 0; expected a positive number, or -1 for whole rows")
    return size


GroupSize = Annotated[int, Field(ge=-1), AfterValidator(_at_least_one_input)]


def usual_group_size(method: str, inputs: int) -> int:
    """Return the size of the groups of a layer.

    Args:
        method: that rounds in groups.
        inputs: of the layer.

    Returns:
        The largest of 128, 64 and 32 that divides the inputs, up to the usual one of the method;
        -1, whole rows, if none does.
    """
    fitting = (size for size in SIZES if size <= USUAL[method] and inputs % size == 0)
    return next(fitting, -1)


def span_words(method: str, group_size: int | None) -> str:
    """Return what shares a scale, in words."""
    if group_size == -1:
        return "whole rows"
    if group_size is not None:
        return f"groups of {group_size}"
    return f"groups of {USUAL[method]} or what fits"
