"""Keys and values as one trained table [P, N]: layer by layer, keys before values.

Sources: prefix tuning (arXiv:2101.00190), P-Tuning v2 (arXiv:2110.07602), files of peft 0.21.2 and
of the ChatGLM scripts, which all lay it out so: [P, 2 * layers, K, d] where keys and values are of
one size. Keys are not rotated: they are what a cache would hold.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.nn.prefix import InFront, KeyValueRecorder, Prefix, Prefixable
from danlu.nn.stores import KVShape


class Table(nn.Module):
    """The table itself."""

    def __init__(self, table_PN: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(table_PN)

    def forward(self) -> Tensor:
        """Return the table [P, N]."""
        return self.weight


class ProjectedTable(nn.Module):
    """The table as what a small MLP makes of embeddings: up(tanh(down(embedding))).

    Args:
        embedding_PE: one embedding for each virtual token.
        down: weight [hidden, E] and bias.
        up: weight [N, hidden] and bias.
    """

    def __init__(
        self, embedding_PE: Tensor, down: tuple[Tensor, Tensor], up: tuple[Tensor, Tensor]
    ) -> None:
        super().__init__()
        self.embedding = nn.Parameter(embedding_PE)
        self.down_weight, self.down_bias = map(nn.Parameter, down)
        self.up_weight, self.up_bias = map(nn.Parameter, up)

    def forward(self) -> Tensor:
        """Return the table [P, N]."""
        hidden = F.linear(self.embedding, self.down_weight, self.down_bias).tanh()
        return F.linear(hidden, self.up_weight, self.up_bias)


class KeyValuePrefix(Prefix):
    """A table [P, N] in front of every text.

    Args:
        table: gives it.
        num_tokens: P.
        kv_shapes: what each layer keeps per token; together N numbers.
        first_position: where the text behind it begins.
    """

    def __init__(
        self, table: nn.Module, num_tokens: int, kv_shapes: Sequence[KVShape], first_position: int
    ) -> None:
        super().__init__()
        self.table = table
        self.num_tokens = num_tokens
        self.kv_shapes = list(kv_shapes)
        self.first_position = first_position

    def in_front(self, decoder: Prefixable) -> InFront:
        """Return the table, cut into the keys and values of the layers."""
        table_PN: Tensor = self.table().to(decoder.dtype)
        heads = [
            (shape.num_kv_heads, size)
            for shape in self.kv_shapes
            for size in (shape.head_dim, shape.value_dim)
        ]
        parts = table_PN.split([count * size for count, size in heads], dim=-1)
        cut = [part.unflatten(-1, head) for part, head in zip(parts, heads, strict=True)]
        return InFront(list(zip(cut[::2], cut[1::2], strict=True)), self.first_position)


def table_width(kv_shapes: Sequence[KVShape]) -> int:
    """Return N: the numbers of one token in all layers."""
    return sum(shape.numbers for shape in kv_shapes)


@torch.no_grad()
def table_of_tokens(model: Prefixable, tokens_P: Tensor) -> Tensor:
    """Return the table [P, N], float32, of a text: what the model itself keeps of it."""
    recorder = KeyValueRecorder(len(tokens_P), model.device)
    model.run_virtual(model.token_embeddings(tokens_P.to(model.device)), recorder)
    rows = [heads.flatten(1) for pair in recorder.keys_values() for heads in pair]
    return torch.cat(rows, dim=-1).float().cpu()


def drawn_projection(
    num_tokens: int, sizes: tuple[int, int, int], generator: torch.Generator
) -> ProjectedTable:
    """Return a fresh MLP of sizes (embedding, hidden, N), drawn as peft and torch draw theirs."""
    embedding, hidden, width = sizes

    def linear(inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        bound = inputs**-0.5
        weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
        return weight, torch.empty(outputs).uniform_(-bound, bound, generator=generator)

    return ProjectedTable(
        torch.empty(num_tokens, embedding).normal_(generator=generator),
        linear(embedding, hidden),
        linear(hidden, width),
    )
