"""Which tokenizer a folder has, where its files alone do not tell: from names people use.

A family's name, an alias of it, the class named in `tokenizer_config.json` or the name of a
tokenizer lead to one of `Dialect`. Spelling does not matter: case, "-", "." and "_" are one.
Source: the `tokenizer_class` and file names of the published checkpoints.
"""

from enum import Enum

from danlu.tokenizer.model import TokenizerFolder
from danlu.tokenizer.special import same_spelling


class Dialect(Enum):
    """A family's way with a kind of file that several families share."""

    QWEN = "qwen"
    QWEN2 = "qwen2"
    GPT2 = "gpt2"
    OPT = "opt"
    AQUILA = "aquila"
    LLAMA = "llama"
    LLAMA3 = "llama3"
    BAICHUAN = "baichuan"
    CHATGLM = "chatglm"
    CHATGLM2 = "chatglm2"
    GLM4 = "glm4"
    GLM_10B = "glm_10b"


_STARTS = (  # the first that a name begins with; longer names of one beginning come first
    ("qwen2", Dialect.QWEN2),
    ("qwen3", Dialect.QWEN2),
    ("qwen", Dialect.QWEN),
    ("gpt", Dialect.GPT2),
    ("opt", Dialect.OPT),
    ("aquila", Dialect.AQUILA),
    ("llama3", Dialect.LLAMA3),
    ("llama_3", Dialect.LLAMA3),
    ("llama", Dialect.LLAMA),
    ("baichuan", Dialect.BAICHUAN),
    ("chatglm4", Dialect.GLM4),
    ("chatglm2", Dialect.CHATGLM2),
    ("chatglm3", Dialect.CHATGLM2),
    ("chatglm_6b", Dialect.CHATGLM),
    ("glm_4", Dialect.GLM4),
    ("glm4", Dialect.GLM4),
    ("glm_10b", Dialect.GLM_10B),
    ("glmchinese", Dialect.GLM_10B),
    ("glmgpt2", Dialect.GLM_10B),
)


def dialect_of(folder: TokenizerFolder) -> Dialect | None:
    """Return the dialect that the caller's family, else the folder's tokenizer class, names."""
    if folder.family is not None:
        return named_dialect(folder.family)
    tokenizer_class = folder.settings.config.get("tokenizer_class")
    return named_dialect(tokenizer_class) if isinstance(tokenizer_class, str) else None


def named_dialect(name: str) -> Dialect | None:
    """Return what a name stands for; None for names that need no rule of their own."""
    plain = same_spelling(name)
    return next((dialect for start, dialect in _STARTS if plain.startswith(start)), None)
