"""From what a user hands in to checked `Request`s: prompts, parameters, limits."""

from collections.abc import Sequence

import torch

from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import Request
from danlu.errors import RequestError, bullet_list
from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer

Prompt = str | Sequence[int]


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a prompt; a text gets what the model puts around it, tokens stay.

    Control tokens written in a text are text here, never control tokens.
    """
    if isinstance(prompt, str):
        return tokenizer.encode_prompt(prompt)
    return list(prompt)


def one_each(
    params: SamplingParams | Sequence[SamplingParams] | None, num_prompts: int
) -> list[SamplingParams]:
    """Return the parameters of each prompt.

    Raises:
        RequestError: if a list of parameters is not as long as the prompts.
    """
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * num_prompts
    if len(params) != num_prompts:
        raise RequestError(
            f"There are {num_prompts} prompts but {len(params)} SamplingParams. "
            "Expected one for all, or a list with one for each prompt."
        )
    return list(params)


def build_requests(
    prompts: Sequence[Sequence[int]],
    params: Sequence[SamplingParams],
    eos_ids: Sequence[int],
    decoder: Decoder,
    continues_text: bool = True,
) -> list[Request]:
    """Return one request for each prompt.

    Args:
        prompts: token ids.
        params: one for each prompt.
        eos_ids: the model's own stop tokens.
        decoder: says how long a text may be, and the size of the vocabulary.
        continues_text: see `Request`.

    Raises:
        RequestError: naming every prompt that cannot be continued, and why.
    """
    pairs = list(zip(prompts, params, strict=True))
    problems = [
        f"prompt {number}: {problem}"
        for number, (ids, its_params) in enumerate(pairs)
        for problem in _problems(ids, its_params, decoder)
    ]
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RequestError(f"{count} in the request:{bullet_list(problems)}")
    room = [decoder.max_text_tokens - len(ids) for ids, _ in pairs]
    return [
        Request(
            prompt_ids=ids,
            params=its_params,
            max_new_tokens=min(its_params.max_tokens or free, free),
            stop_ids=_stop_ids(its_params, eos_ids),
            seed=fresh_seed() if its_params.seed is None else its_params.seed,
            continues_text=continues_text,
        )
        for (ids, its_params), free in zip(pairs, room, strict=True)
    ]


def _stop_ids(params: SamplingParams, eos_ids: Sequence[int]) -> frozenset[int]:
    eos = () if params.ignore_eos else eos_ids
    return frozenset((*eos, *params.stop_token_ids))


def fresh_seed() -> int:
    """Draw a seed from torch's global generator, which `torch.manual_seed` governs."""
    return int(torch.randint(2**63 - 1, ()))


def _problems(ids: Sequence[int], params: SamplingParams, decoder: Decoder) -> list[str]:
    problems = []
    if not ids:
        problems.append("it has no tokens; expected at least one to continue from")
    if len(ids) >= decoder.max_text_tokens:
        problems.append(
            f"it has {len(ids)} tokens; expected fewer than {decoder.max_text_tokens}, the model's "
            "context (prompt and answer together). Shorten it"
        )
    for what, tokens in (
        ("token ids", ids),
        ("stop_token_ids", params.stop_token_ids),
        ("logit_bias", params.logit_bias or ()),
    ):
        outside = sorted({token for token in tokens if not 0 <= token < decoder.vocab_size})
        if outside:
            problems.append(
                f"{what} {outside[:5]} are outside the vocabulary; "
                f"expected 0 to {decoder.vocab_size - 1}"
            )
    return problems
