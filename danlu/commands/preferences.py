"""What an alignment run learns from: preferences read, encoded, and put into batches."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from danlu.config.align import AlignData
from danlu.config.data import DataSource
from danlu.config.objective import (
    CpoConfig,
    DpoConfig,
    KtoConfig,
    ObjectiveConfig,
    OrpoConfig,
    RewardConfig,
    SimpoConfig,
)
from danlu.data.conversations import read_labelled, read_preferences
from danlu.data.encoded.preference_encoding import (
    Rendering,
    encode_comparisons,
    encode_judgements,
    labelled,
)
from danlu.data.examples import LabelledAnswer
from danlu.data.ledger import Ledger
from danlu.data.preferences import Comparison, Example, Judgement, with_mismatched
from danlu.progress import Progress
from danlu.tokenizer import Tokenizer
from danlu.train.objective import Objective
from danlu.train.preference.contrast import cpo, simpo
from danlu.train.preference.dpo import Dpo
from danlu.train.preference.kto import Kto
from danlu.train.preference.orpo import Orpo
from danlu.train.preference.reference import Reference
from danlu.train.preference.reward import RewardModel
from danlu.train.preference.source import Batches, Known, judged_batches, num_tokens, pair_batches

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preferences:
    """Examples to learn from and to evaluate on, and what became of the rows."""

    examples: Sequence[Example]
    ledger: Ledger
    held_out: Sequence[Example] = ()
    held_out_ledger: Ledger = field(default_factory=Ledger)

    def ledgers(self) -> dict[str, Any]:
        """Return the ledger of the training data with that of the held-out data in it."""
        return {**self.ledger.summary(), "held_out": self.held_out_ledger.summary()}

    def counts(self) -> dict[str, Any]:
        """Return how many examples and tokens there are."""
        parts = {"data": self.examples, "held_out": self.held_out}
        return {
            name: {"examples": len(part), "tokens": sum(map(num_tokens, part))}
            for name, part in parts.items()
        }


def read_all(
    data: AlignData,
    objective: ObjectiveConfig,
    tokenizer: Tokenizer,
    progress: Progress | None = None,
) -> Preferences:
    """Return the examples of an alignment run.

    Raises:
        DataError: with every bad row; if more examples are dropped than may be, or none is left.
        TokenizerError: for a conversation that cannot be rendered.
    """
    rendering = Rendering(tokenizer, data.max_seq_len, data.chat_format, data.long)
    ledgers = Ledger(), Ledger()
    examples = _examples(data.sources, data, objective, rendering, ledgers[0], progress)
    ledgers[0].check(data.max_dropped)
    evaluated = _examples(data.held_out_sources, data, objective, rendering, ledgers[1], progress)
    return Preferences(examples, ledgers[0], evaluated, ledgers[1])


def _examples(
    sources: Sequence[DataSource],
    data: AlignData,
    objective: ObjectiveConfig,
    rendering: Rendering,
    ledger: Ledger,
    progress: Progress | None,
) -> Sequence[Example]:
    if not isinstance(objective, KtoConfig):
        pairs = [pair for source in sources for pair in read_preferences(source)]
        comparisons = encode_comparisons(pairs, rendering, ledger, progress)
        _tell_unused_margins(comparisons, objective)
        return comparisons
    answers = list(_answers(sources, data))
    judgements = encode_judgements(answers, rendering, ledger, progress)
    if objective.loss == "kto" and judgements:
        return with_mismatched(judgements, data.max_seq_len)
    return judgements


def _answers(sources: Sequence[DataSource], data: AlignData) -> Iterator[LabelledAnswer]:
    for source in sources:
        if data.pairs_as_labels:
            yield from labelled(list(read_preferences(source)))
        else:
            yield from read_labelled(source)


def _tell_unused_margins(pairs: Sequence[Comparison], objective: ObjectiveConfig) -> None:
    stated = sum(pair.margin is not None for pair in pairs)
    if stated and not isinstance(objective, RewardConfig):
        _log.warning(
            "%d of %d pairs state a margin, which only method reward reads; %s learns from all "
            "pairs alike.",
            stated,
            len(pairs),
            objective.method,
        )


def batches_of(
    examples: Sequence[Example], reference: Known | None, device: str
) -> Batches[Any, Any]:
    """Return examples that become batches: of pairs, or of judged answers."""
    judged = [example for example in examples if isinstance(example, Judgement)]
    if judged:
        return judged_batches(judged, reference, device)
    pairs = [example for example in examples if isinstance(example, Comparison)]
    return pair_batches(pairs, reference, device)


def objective_of(config: ObjectiveConfig, reference: Reference) -> Objective[Any]:
    """Return what is learned; `reference` is used by dpo and kto."""
    if isinstance(config, DpoConfig):
        return Dpo(config, reference)
    if isinstance(config, KtoConfig):
        return Kto(config, reference)
    return _ALONE[type(config)](config)


_ALONE: dict[type, Callable[[Any], Objective[Any]]] = {
    OrpoConfig: Orpo,
    SimpoConfig: simpo,
    CpoConfig: cpo,
    RewardConfig: RewardModel,
}
