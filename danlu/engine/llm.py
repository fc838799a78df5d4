"""`LLM`: a model folder that answers; prompts and conversations in, text out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch

from danlu.config.quantize.kv_cache import KvCacheName
from danlu.config.quantize.scheme import PresetName, QuantScheme
from danlu.engine.generator import Generator
from danlu.engine.placement import choose_cache, choose_device, choose_dtype
from danlu.engine.requests import Prompt, build_requests, one_each, prompt_ids
from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import FinishReason, GenerationSequence, Request, TokenLogprob
from danlu.engine.text import AnswerText
from danlu.errors import RequestError
from danlu.hub import resolve
from danlu.loading import check_rows, load_decoder, load_tokenizer
from danlu.models.decoder import Decoder
from danlu.progress import Progress
from danlu.quantize.operators.compiled_rows import compile_products
from danlu.tokenizer import IncrementalDecoder, Tokenizer
from danlu.tokenizer.chat.truncation import FittedHistory, Rule, fit_history
from danlu.tokenizer.stamp import check_stamp, tokenizer_of_adapter

Message = Mapping[str, Any]
Conversation = Sequence[Message]
Params = SamplingParams | Sequence[SamplingParams]
Tools = Sequence[Mapping[str, Any]]
Quantize = PresetName | QuantScheme

# Tokens of a prompt that decide how its continuation begins: after a word, inside a character.
CONTEXT_TOKENS = 4


@dataclass(frozen=True)
class Generation:
    """One answer.

    Attributes:
        text: the answer, without what stopped it.
        token_ids: its tokens; a stop token, or the tokens of a stop string, are among them.
        finish_reason: "stop": by a stop token or string; "length": max_tokens or the context is
            used up.
        prompt_token_ids: the tokens it continues.
        logprobs: one entry per token, if asked for.
        index: which of the prompt's `n` answers this is.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    index: int = 0


class LLM:
    """A model with its tokenizer, ready to answer.

    Args:
        path: a checkpoint folder, or the id of a downloaded model.
        dtype: "auto" (see `danlu.engine.placement.choose_dtype`), a name such as "bf16", or a torch
            dtype.
        device: "auto" (the accelerator if there is one), or a torch device.
        adapter: folder of an adapter of any method.
        quantize: quantize the weights while loading, as in `load_decoder`.
        family: name of the family, where config.json does not tell it.
        chat_format: a built-in format or a template file; default: the model's own.
        kv_cache: how keys and values are kept: "int8" (the folder's fixed scales if it has any,
            else one for each token and head) or "plain"; None: as the folder says, else plain.
        compiled: let torch compile what gains from it on this processor (seconds when it starts).

    Attributes:
        decoder: the model.
        tokenizer: the tokenizer.
    """

    decoder: Decoder
    tokenizer: Tokenizer

    def __init__(
        self,
        path: str | Path,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        adapter: str | Path | None = None,
        quantize: Quantize | None = None,
        family: str | None = None,
        chat_format: str | None = None,
        kv_cache: KvCacheName | None = None,
        compiled: bool = False,
    ) -> None:
        folder, place = resolve(path), choose_device(device)
        computes = choose_dtype(dtype, folder, place)
        tokenizer = load_tokenizer(folder, family)
        check_stamp(folder, tokenizer)
        if adapter is not None:
            tokenizer = tokenizer_of_adapter(Path(adapter), tokenizer)
        decoder = load_decoder(
            folder, computes, place, adapter, quantize, family, for_inference=True
        )
        choose_cache(decoder, kv_cache)
        if compiled:
            compile_products(decoder)
        check_rows(tokenizer, decoder.config.vocab_size, folder)
        if chat_format is not None:
            tokenizer = tokenizer.with_chat_format(chat_format)
        self._assemble(decoder, tokenizer)

    @classmethod
    def from_parts(cls, decoder: Decoder, tokenizer: Tokenizer) -> "LLM":
        """Return an LLM of a model and a tokenizer that are loaded already."""
        llm = cls.__new__(cls)
        llm._assemble(decoder, tokenizer)
        return llm

    def _assemble(self, decoder: Decoder, tokenizer: Tokenizer) -> None:
        self.decoder = decoder.eval()
        self.tokenizer = tokenizer
        self._generator = Generator(decoder)

    def generate(
        self,
        prompts: str | Sequence[Prompt],
        params: Params | None = None,
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Continue prompts.

        Args:
            prompts: texts (the model's prefix, such as BOS, is put in front) or lists of token ids
                (used as they are); a single text counts as a list of one.
            params: for all prompts, or one for each.
            progress: hears of each finished answer.

        Returns:
            The answers in the order of the prompts; with `n` > 1 all answers to a prompt follow
            each other.

        Raises:
            RequestError: naming everything that is wrong with any prompt.
        """
        listed = [prompts] if isinstance(prompts, str) else prompts
        _check_kinds(listed)
        ids = [prompt_ids(prompt, self.tokenizer) for prompt in listed]
        return self._answer(self._requests(ids, params, continues_text=True), progress)

    @overload
    def chat(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        tools: Tools | None = None,
        progress: Progress | None = None,
    ) -> Generation: ...
    @overload
    def chat(
        self,
        messages: Sequence[Conversation],
        params: Params | None = None,
        tools: Tools | None = None,
        progress: Progress | None = None,
    ) -> list[Generation]: ...
    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        params: Params | None = None,
        tools: Tools | None = None,
        progress: Progress | None = None,
    ) -> Generation | list[Generation]:
        """Answer conversations, rendered by the model's own chat format.

        Args:
            messages: one conversation (a list of messages with `role` and `content`), or a list of
                conversations.
            params: for all conversations, or one for each.
            tools: JSON schemas of the functions that the model may call.
            progress: hears of each finished answer.

        Returns:
            One `Generation` for one conversation; for a list of conversations a list, ordered as by
            `generate`.

        Raises:
            RequestError: if a prompt is too long, or one conversation is asked for `n` > 1 answers.
            TokenizerError: if there is no chat format or a conversation does not fit it.
        """
        single = _is_conversation(messages)
        if single and any(p.n > 1 for p in one_each(params, 1)):
            raise RequestError(
                "One conversation gives one answer, but n > 1 was asked for. "
                "Give a list, chat([messages], ...), to get a list of answers."
            )
        conversations = [messages] if single else messages
        ids = [self._render(conversation, tools) for conversation in conversations]
        answers = self._answer(self._requests(ids, params, continues_text=False), progress)
        return answers[0] if single else answers

    def stream(
        self,
        prompt: str | Conversation,
        params: SamplingParams | None = None,
        tools: Tools | None = None,
    ) -> Iterator[str]:
        """Return an iterator over the pieces of one answer; joined they are its text.

        A piece holds whole characters, and never what may be the beginning of a stop string.
        Leaving the iterator ends the work.

        Args:
            prompt: a text to continue, or a conversation to answer.
            params: `n` must be 1, and log probabilities cannot be streamed.
            tools: as in `chat`.

        Raises:
            RequestError: at once, not at the first piece.
        """
        params = params or SamplingParams()
        if params.n > 1 or params.logprobs is not None:
            raise RequestError(
                f"A stream is the text of one answer; found n={params.n}, "
                f"logprobs={params.logprobs}. Use generate or chat for more than that."
            )
        if isinstance(prompt, str):
            ids = prompt_ids(prompt, self.tokenizer)
        else:
            ids = self._render(prompt, tools)
        [request] = self._requests([ids], params, continues_text=isinstance(prompt, str))
        return self._pieces(request)

    def fit_history(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        tools: Tools | None = None,
        rule: Rule = "danlu",
    ) -> FittedHistory:
        """Return a conversation without the oldest rounds that its context has no room for.

        The answer gets `max_tokens` of the context, at most half of it. `chat` and `stream` never
        leave anything out themselves.

        Args:
            messages: the conversation; it ends with what is to be answered.
            params: how long the answer may be.
            tools: as in `chat`.
            rule: as in `danlu.tokenizer.chat.truncation.fit_history`.

        Raises:
            RequestError: if the last question alone is too long.
        """
        context = self.decoder.max_text_tokens
        wanted = (params or SamplingParams()).max_tokens or context
        room = context - min(wanted, context // 2)
        return fit_history(self.tokenizer, messages, room, rule=rule, tools=tools)

    def _pieces(self, request: Request) -> Iterator[str]:
        text = self._follow(request)
        for _ in self._generator.stream(request, text):
            piece = text.take()
            if piece:
                yield piece

    def _render(self, conversation: Any, tools: Tools | None) -> list[int]:
        return list(self.tokenizer.render_chat(conversation, tools=tools).ids)

    def _requests(
        self, prompts: Sequence[list[int]], params: Params | None, *, continues_text: bool
    ) -> list[Request]:
        every = one_each(params, len(prompts))
        if not continues_text:
            every = [_with_stop_texts(its, self.tokenizer.stop_texts()) for its in every]
        eos_ids = self.tokenizer.stop_ids()
        return build_requests(prompts, every, eos_ids, self.decoder, continues_text)

    def _answer(self, requests: Sequence[Request], progress: Progress | None) -> list[Generation]:
        answers = self._generator.run(requests, self._follow_stops, progress)
        return [self._generation(sequence) for group in answers for sequence in group]

    def _follow(self, request: Request) -> AnswerText:
        decoder = IncrementalDecoder(self.tokenizer)
        if request.continues_text:
            for token in request.prompt_ids[-CONTEXT_TOKENS:]:
                decoder.push(token)
        return AnswerText(decoder, request.params.stop)

    def _follow_stops(self, request: Request) -> AnswerText | None:
        """Text is followed token by token only where it can end the answer."""
        return self._follow(request) if request.params.stop else None

    def _generation(self, sequence: GenerationSequence) -> Generation:
        assert sequence.finish_reason is not None
        return Generation(
            text=self._text(sequence),
            token_ids=sequence.token_ids,
            finish_reason=sequence.finish_reason,
            prompt_token_ids=list(sequence.prompt_ids),
            logprobs=None if sequence.params.logprobs is None else sequence.logprobs,
            index=sequence.index,
        )

    def _text(self, sequence: GenerationSequence) -> str:
        if sequence.text is not None:
            return sequence.text.text
        text = self._follow(sequence.request)
        for token in sequence.token_ids[: -1 if sequence.stopped_by_token else None]:
            text.push(token)
        text.finish()
        return text.text


def _with_stop_texts(params: SamplingParams, texts: Sequence[str]) -> SamplingParams:
    """Return the parameters with the texts that end an answer of the chat format."""
    if params.ignore_eos or not texts:
        return params
    return params.model_copy(update={"stop": tuple(dict.fromkeys([*params.stop, *texts]))})


def _is_conversation(messages: Conversation | Sequence[Conversation]) -> bool:
    """Whether it is one conversation, not a list of them."""
    if isinstance(messages, str | Mapping) or not messages:
        raise RequestError(
            f"Cannot answer {messages!r}; expected a conversation such as "
            '[{"role": "user", "content": "..."}], or a list of conversations. '
            "To continue a text, use generate."
        )
    return isinstance(messages[0], Mapping)


def _check_kinds(prompts: Sequence[Prompt]) -> None:
    """Refuse a bare list of ids, and anything else that is neither text nor ids."""
    for number, prompt in enumerate(prompts):
        is_ids = isinstance(prompt, Sequence) and all(type(token) is int for token in prompt)
        if not isinstance(prompt, str) and not is_ids:
            raise RequestError(
                f"Prompt {number} is {prompt!r}; expected a text or a list of token ids. "
                "A single prompt of ids is a list in a list: generate([[1, 2, 3]])."
            )
