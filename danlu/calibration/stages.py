"""In which order the linear layers of a block work, and which of them get the same input."""

from collections.abc import Iterator, Mapping, Sequence

from danlu.nn.linear import LinearLike

MOMENT_BYTES = 2**31  # of input statistics that are kept at once
_ORDER = (
    ("q_proj", "k_proj", "v_proj", "q_a_proj", "kv_a_proj_with_mqa"),
    ("q_b_proj",),
    ("kv_b_proj",),
    ("o_proj",),
    ("gate_proj", "up_proj"),
    ("down_proj",),
)
_PLACES = {name: place for place, names in enumerate(_ORDER) for name in names}

Stage = tuple[str, ...]


def stages(linears: Mapping[str, LinearLike]) -> list[Stage]:
    """Return the layers of a block in the order of the forward pass; one input, one stage.

    Layers of different modules (experts, say) are in stages of their own.
    """
    found: dict[tuple[int, str], list[str]] = {}
    for name in linears:
        parent, _, last = name.rpartition(".")
        found.setdefault((_PLACES[last], parent), []).append(name)
    places = sorted(found, key=lambda place: place[0])  # stable: experts keep their order
    return [tuple(found[place]) for place in places]


def waves(linears: Mapping[str, LinearLike], limit: int = MOMENT_BYTES) -> Iterator[list[Stage]]:
    """Yield runs of stages that do not see each other's outputs, so that one pass serves all.

    A wave holds the same stage of several experts, as many as `limit` bytes of moments allow.
    """
    wave: list[Stage] = []
    used = 0
    for stage in stages(linears):
        size = 4 * linears[stage[0]].in_features ** 2
        follows = wave and _place(wave[0]) != _place(stage)
        if wave and (follows or used + size > limit):
            yield wave
            wave, used = [], 0
        wave.append(stage)
        used += size
    if wave:
        yield wave


def _place(stage: Sequence[str]) -> int:
    return _PLACES[stage[0].rpartition(".")[2]]
