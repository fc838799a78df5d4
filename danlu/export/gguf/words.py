"""A vocabulary in llama.cpp's terms, before control tokens and padding."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Words:
    """What one kind of tokenizer gives.

    Attributes:
        model: GGUF's name of the algorithm.
        pre: GGUF's name of the pre-tokenizer.
        tokens: text of each id.
        types: kind of the ids that are not NORMAL.
        scores: of each id, for sentencepiece.
        merges: "left right" in order, for byte-level BPE.
        space_prefix: whether a text gets a space in front; None: as the algorithm does.
        notes: where llama.cpp's tokenizer differs.
    """

    model: str
    pre: str
    tokens: Mapping[int, str]
    types: Mapping[int, str] = field(default_factory=dict)
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    space_prefix: bool | None = None
    notes: tuple[str, ...] = ()
