"""What a config states about integers in groups, against what all layers of a checkpoint hold.

Tools let single layers differ, so a config is contradicted only where no layer is as it says.
"""

from collections.abc import Collection
from typing import Any


def bits_problems(stated: Any, held: Collection[int]) -> list[str]:
    """Return the problem with the stated bits, if no layer has them.

    Args:
        stated: bits in the config, or None.
        held: bits of each layer, read from its shapes.
    """
    if stated is None or not held or stated in held:
        return []
    found = _listed(set(held))
    return [
        f"it says {stated} bits, but the shapes of all {len(held)} layers tell {found}; "
        f'expected "bits": {found}'
    ]


def group_problems(stated: Any, held: Collection[tuple[int, int]]) -> list[str]:
    """Return the problem with the stated group size, if no layer has it.

    Args:
        stated: inputs that share a scale in the config, -1 for a whole row, or None.
        held: of each layer its inputs, and its groups.
    """
    if not isinstance(stated, int) or not held:
        return []
    sizes = {-(-inputs // groups) for inputs, groups in held}
    if any(_groups(inputs, stated) == groups for inputs, groups in held):
        return []
    whole = all(groups == 1 for _, groups in held)
    found = "-1" if whole else _listed(sizes)
    spans = "whole rows" if whole else f"groups of {found}"
    return [
        f"it says groups of {stated}, but the scales of all {len(held)} layers are of {spans}; "
        f'expected "group_size": {found}'
    ]


def _groups(inputs: int, size: int) -> int:
    return 1 if size <= 0 else -(-inputs // size)


def _listed(numbers: Collection[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))
