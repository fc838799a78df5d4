"""A reward model (Bradley-Terry): the score of a conversation is read at its last token.

loss = -log s(chosen - rejected - margin) + center * (chosen + rejected)^2, as TRL 1.16's
RewardTrainer. The model is a decoder whose head has one row (`danlu.loading.reward`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from danlu.config.objective import RewardConfig
from danlu.data.preferences import AnsweredPrompt
from danlu.errors import CheckpointError
from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.chat.chat_format import Message
from danlu.train.preference.batch import PairBatch, Sequences, collate_sequences
from danlu.train.preference.scoring import Tally, evaluating


class RewardModel:
    """Pairs whose two scores are compared."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._tally = Tally()

    def loss(self, model: Decoder, batch: PairBatch) -> tuple[Tensor, int]:
        """Return the loss summed over the pairs, and how many there are."""
        chosen_N, rejected_N = sequence_scores(model, batch.sequences).chunk(2)
        margins_N = torch.zeros_like(chosen_N) if batch.margins_N is None else batch.margins_N
        loss = -logsigmoid(chosen_N - rejected_N - margins_N).sum()
        if self._config.center is not None:
            loss = loss + self._config.center * (chosen_N + rejected_N).square().sum()
        self._tally.add_rewards(chosen_N.detach(), rejected_N.detach())
        return loss, batch.num_pairs

    def take_metrics(self) -> dict[str, float]:
        """Return the scores, their margin, and how often the chosen one is higher."""
        return self._tally.take()


def sequence_scores(model: Decoder, sequences: Sequences) -> Tensor:
    """Return the score of each sequence, float32 [S]."""
    hidden_BTD = model.packed_hidden(sequences.tokens_BT, sequences.documents_BT)
    last_SD = hidden_BTD[0].index_select(0, sequences.last_S)
    return model.logits(last_SD)[:, 0].float()


def score(
    model: Decoder,
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    format: str | None = None,
    batch_size: int = 8,
) -> list[float]:
    """Return how good a reward model finds the last answer of each conversation.

    Args:
        model: from `danlu.loading.reward.load_reward_model`.
        tokenizer: encodes and names the chat format.
        conversations: each ends with what the assistant says.
        format: as in `Tokenizer.render_chat`.
        batch_size: conversations that go through the model at once.

    Raises:
        CheckpointError: if the model has no score head.
        TokenizerError: for a conversation that cannot be rendered.
    """
    if model.lm_head.out_features != 1:
        raise CheckpointError(
            f"The head of this model gives {model.lm_head.out_features} numbers; expected the one "
            "score of a reward model. Open one with load_reward_model."
        )
    rendered = [
        tokenizer.render_chat(messages, format=format, add_generation_prompt=False).ids
        for messages in conversations
    ]
    scores: list[float] = []
    with evaluating(model):
        for start in range(0, len(rendered), batch_size):
            part = [AnsweredPrompt(list(ids), list(ids)) for ids in rendered[start:][:batch_size]]
            scores += sequence_scores(model, collate_sequences(part).to(model.device)).tolist()
    return scores
