"""Corpora that `danlu data build` wrote: a store of token ids, made once, read by any run.

A built corpus belongs to the tokenizer it was made with. Its documents keep their boundaries, and
each has a number drawn from its text, so that any run can hold out a share of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import danlu
from danlu.config.data import DataSource
from danlu.data.encoded.encoding import TextEncoder
from danlu.data.encoded.store import MANIFEST, ArrayStore, verify
from danlu.data.reading.source_files import described, source_files
from danlu.errors import DataError
from danlu.tokenizer import Tokenizer

KIND = "corpus"
MOST_HASHED_BYTES = 1 << 30  # about a second; of larger corpora only the sizes are compared
_MOST_OF_UINT16 = 1 << 16


def corpus_encoder(tokenizer: Tokenizer) -> TextEncoder:
    """Return the encoder of a built corpus: ids in two bytes each if the vocabulary allows it."""
    dtype = "<u2" if tokenizer.vocab_size <= _MOST_OF_UINT16 else "<u4"
    return TextEncoder(tokenizer, split_seed=0, dtype=dtype)


def corpus_facts(sources: Sequence[DataSource], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what the manifest of a corpus tells, and what decides its content."""
    return {
        "kind": KIND,
        "danlu": danlu.__version__,
        "sources": [source.model_dump(mode="json", exclude_defaults=True) for source in sources],
        "files": [described(file) for source in sources for file in source_files(source)],
        "vocab_size": tokenizer.vocab_size,
        **corpus_encoder(tokenizer).identity(),
    }


def is_built_corpus(source: DataSource) -> bool:
    """Return whether a source is a folder that `danlu data build` wrote."""
    return (Path(source.path) / MANIFEST).is_file()


def open_built_corpus(source: DataSource, tokenizer: Tokenizer) -> ArrayStore:
    """Return the documents of a built corpus.

    Raises:
        DataError: if it is damaged, or was built with another tokenizer.
    """
    options = source.model_dump(exclude_defaults=True, exclude={"path", "weight"})
    if options:
        raise DataError(
            f"'{source.path}' is built already, so it cannot be read with {', '.join(options)}. "
            "Expected only path and weight."
        )
    store = ArrayStore(Path(source.path))
    if sum(file.stat().st_size for file in store.folder.iterdir()) <= MOST_HASHED_BYTES:
        verify(store.folder)
    if store.about.get("kind") != KIND:
        raise DataError(
            f"'{source.path}' holds encoded data of another kind; expected a folder that "
            "`danlu data build` wrote. Give the text itself, or build it."
        )
    known, ours = store.about["tokenizer"], tokenizer.fingerprint()
    if known != ours:
        raise DataError(
            f"'{source.path}' was built with another tokenizer ({known[:12]}, "
            f"{store.about['vocab_size']} tokens) than this run's ({ours[:12]}, "
            f"{tokenizer.vocab_size} tokens). Expected the same one, as the ids would mean "
            "something else. Build the corpus again with --tokenizer of this run."
        )
    return store


def draws_for(store: ArrayStore, seed: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each row, decided by its content and the seed.

    Those of a built corpus were drawn once, for the seed 0, and are mixed with this seed here
    (splitmix64: Steele et al. 2014); those of other stores were drawn for it.
    """
    if store.about.get("kind") != KIND or seed == 0:
        return store.draws
    bits = store.draws.view(np.uint64) ^ _mixed(np.array([seed], np.uint64))
    return (_mixed(bits) >> np.uint64(11)).astype(np.float64) / 2**53


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        bits = bits + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
