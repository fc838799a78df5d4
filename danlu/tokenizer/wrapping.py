"""What families do around a sentencepiece model, beyond encoding with it.

Sources: `tokenization_llama.py` of transformers 4; `tokenization_baichuan.py` of Baichuan-7B and
Baichuan2-7B; `tokenization_chatglm.py` of ChatGLM-6B (its first and its last release), ChatGLM2-6B
and ChatGLM3-6B; `tokenization_glm.py` of glm-10b-chinese.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from danlu.tokenizer.protobuf import bytes_field, float_field, number_field
from danlu.tokenizer.special import AddedToken


@dataclass(frozen=True)
class Wrapping:
    """A family's rules.

    Attributes:
        appended: control tokens numbered right after the pieces.
        reserved: pieces of the model that are control tokens of chats.
        icetk: are newlines, tabs and runs of spaces written as pieces of their own.
        first_id: the id of piece 0.
        unknown: what the unknown piece reads as in a decoded text; None: it is a control token.
        named: which tokens are bos, eos, pad and unk, where not as the model says.
        prefix, suffix: the control tokens around a raw prompt; None: the bos of the model.
        tokenizer_class: what saved folders say of themselves.
    """

    appended: tuple[AddedToken, ...] = ()
    reserved: re.Pattern[str] | None = None
    icetk: bool = False
    first_id: int = 0
    unknown: str | None = None
    named: Mapping[str, str] | None = None
    prefix: tuple[str, ...] | None = None
    suffix: tuple[str, ...] = ()
    tokenizer_class: str = "LlamaTokenizer"


def _appended(first_id: int, texts: Sequence[str]) -> tuple[AddedToken, ...]:
    """Return control tokens in a row; those that are plain words stand alone in a text."""
    return tuple(
        AddedToken(text, first_id + index, single_word=text.isalpha())
        for index, text in enumerate(texts)
    )


LLAMA = Wrapping()
BAICHUAN = Wrapping(
    reserved=re.compile(r"<reserved_\d+>"),
    named={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"},
    prefix=(),
    tokenizer_class="BaichuanTokenizer",
)


def chatglm2(num_pieces: int) -> Wrapping:
    """Return the rules of ChatGLM2, with the role tokens that ChatGLM3 added behind."""
    roles = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
    commands = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *roles)
    return Wrapping(
        appended=_appended(num_pieces, commands),
        named={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"},
        prefix=("[gMASK]", "sop"),
        tokenizer_class="ChatGLMTokenizer",
    )


def glm_10b_chinese(num_pieces: int) -> Wrapping:
    """Return the rules of GLM-10B Chinese and GLM-large Chinese."""
    texts = {
        **dict(enumerate(("<|endoftext|>", "[SEP]", "[CLS]", "[MASK]", "[UNK]"))),
        **dict(enumerate(("<|startofpiece|>", "<|endofpiece|>", "[sMASK]", "[gMASK]"), start=6)),
        10: "dBLOCK",
    }
    return Wrapping(
        appended=tuple(AddedToken(text, num_pieces + index) for index, text in texts.items()),
        unknown=" \u2047 ",
        named={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        prefix=("[CLS]",),
        suffix=("[gMASK]", "<|endoftext|>", "<|startofpiece|>"),
        tokenizer_class="GLMChineseTokenizer",
    )


ICETK_BASE_PIECES = 130000
IMAGE_TOKENS = 20000
_LONGEST_BLANK = 80
_NORMAL, _CONTROL, _USER, _BYTE = 1, 3, 4, 6  # types of pieces
_BLANK = re.compile(r"<\|blank_(\d+)\|>")
_RUN = re.compile("\n|\t| {2,80}")


def chatglm(num_image_tokens: int) -> Wrapping:
    """Return the rules of ChatGLM-6B; its first release has 20000 image tokens in front."""
    return Wrapping(
        icetk=True,
        first_id=num_image_tokens,
        named={
            **{"bos_token": "<sop>", "eos_token": "<eop>"},
            **{"pad_token": "<pad>", "unk_token": "<unk>"},
        },
        prefix=(),
        suffix=("[gMASK]", "<sop>"),
        tokenizer_class="ChatGLMTokenizer",
    )


def complete_icetk(proto: bytes) -> bytes:
    """Return the model with the pieces that the first release's code added while loading it."""
    if b"<|blank_2|>" in proto:
        return proto
    control = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
    blanks = [f"<|blank_{size}|>" for size in range(2, _LONGEST_BLANK + 1)]
    pieces = [(text, _CONTROL) for text in control]
    pieces += [(text, _USER) for text in ("<|tab|>", *blanks)]
    pieces += [(f"<0x{byte:02X}>", _BYTE) for byte in range(256)]
    byte_fallback = bytes_field(2, number_field(35, 1))  # TrainerSpec.byte_fallback
    return proto + b"".join(_piece(text, kind) for text, kind in pieces) + byte_fallback


def _piece(text: str, kind: int) -> bytes:
    message = bytes_field(1, text.encode()) + float_field(2, 0.0) + number_field(3, kind)
    return bytes_field(1, message)


@dataclass(frozen=True)
class Prepared:
    """A text as the model gets it, and for each of its characters (and its end) the original's."""

    text: str
    origins: list[int] = field(default_factory=list)


def write_icetk(text: str) -> str:
    """Write newlines, tabs and runs of spaces as pieces."""
    return _RUN.sub(lambda match: _piece_of_run(match.group()), text)


def prepare_icetk(text: str) -> Prepared:
    """As `write_icetk`, with where each character comes from."""
    origins: list[int] = []
    position = 0
    for match in _RUN.finditer(text):
        origins += range(position, match.start())
        origins += [match.start()] * len(_piece_of_run(match.group()))
        position = match.end()
    return Prepared(write_icetk(text), [*origins, *range(position, len(text) + 1)])


def _piece_of_run(run: str) -> str:
    return {"\n": "<n>", "\t": "<|tab|>"}.get(run) or f"<|blank_{len(run)}|>"


def read_icetk(piece: str) -> str | None:
    """Return the white space that a piece stands for, None for other pieces."""
    blank = _BLANK.fullmatch(piece)
    return " " * int(blank[1]) if blank else {"<n>": "\n", "<|tab|>": "\t"}.get(piece)
