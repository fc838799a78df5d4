"""Which graph of llama.cpp computes a decoder: that of its family, or of a living relative."""

from collections.abc import Iterator
from dataclasses import dataclass

from danlu.errors import ExportError, bullet_list
from danlu.export.gguf.architecture import Architecture, architectures
from danlu.loading import decoder_from_config
from danlu.models import discover
from danlu.models.decoder import Decoder

# Families that no file of `architectures` serves, and that have no living re-expression here.
REFUSED = {
    "opt": "llama.cpp has no graph for OPT (learned positions with an offset, ReLU)",
    "chatglm": "no graph of llama.cpp has its 2-D rotary positions and its bidirectional prompt",
    "glm_10b": "no graph of llama.cpp has its block positions and its bidirectional context",
    "qwen3_moe": "stacking experts for llama.cpp's graph 'qwen3moe' is not written yet",
    "deepseek_v3": "latent attention and experts for llama.cpp's 'deepseek2' are not written yet",
}


@dataclass(frozen=True)
class Choice:
    """The architecture of a file.

    Attributes:
        family: of the source.
        name: as llama.cpp calls it.
        architecture: its tensors and keys.
        context_length: tokens the file is good for.
        notes: what the user must know.
    """

    family: str
    name: str
    architecture: Architecture
    context_length: int
    notes: tuple[str, ...]


def choose(decoder: Decoder) -> Choice:
    """Return how a decoder is said in GGUF: by its family's own graph, or by a living relative's.

    Raises:
        ExportError: if no graph computes the same, with the reasons.
    """
    problems: list[str] = []
    for family, context_length, notes in _candidates(decoder):
        for name, architecture in architectures().items():
            if family not in architecture.families:
                continue
            found = architecture.problems(decoder)
            if not found:
                known = architecture.hyperparameters(decoder)["context_length"]
                assert isinstance(known, int)
                return Choice(
                    _family(decoder),
                    name,
                    architecture,
                    min(context_length, known),
                    (*notes, *architecture.notes(decoder)),
                )
            problems += [f"{name}: {problem}" for problem in found]
    raise ExportError(_refusal(_family(decoder), problems))


def _candidates(decoder: Decoder) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Yield families to look for: its own, then what it becomes for transformers.

    With each come the tokens it is good for, and what the user must know.
    """
    assert decoder.published is not None
    own = _family(decoder)
    yield own, decoder.config.max_seq_len, ()
    reexpress = discover()[own].exports.get("transformers")
    if reexpress is None:
        return
    living = reexpress(decoder.published.config, decoder.config)
    if living.family != own:
        length = decoder_from_config(living.config, living.family).config.max_seq_len
        yield living.family, length, living.notes


def _refusal(family: str, problems: list[str]) -> str:
    if problems:
        return (
            f"No graph of llama.cpp computes this model of family {family!r}:"
            f"{bullet_list(problems)}\nDanlu itself opens it, trains it and answers with it."
        )
    served = sorted({name for found in architectures().values() for name in found.families})
    reason = REFUSED.get(family) or discover()[family].not_exported or "no graph here says it"
    return (
        f"A model of family {family!r} cannot be written as GGUF: {reason}. Written so far: "
        f"{', '.join(served)}, and what becomes one of these for transformers."
    )


def _family(decoder: Decoder) -> str:
    assert decoder.published is not None
    return decoder.published.family
