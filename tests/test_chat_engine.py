"""Chats through the engine: long histories, and formats whose answers end with a text."""

import pytest
import torch
from chat_cases import every_control_tokenizer
from engine_parts import SHAPE, tiny_decoder

from danlu.engine.llm import LLM
from danlu.engine.sampling import SamplingParams
from danlu.errors import RequestError
from danlu.loading import new_decoder

SYSTEM = {"role": "system", "content": "Be brief."}


def talk(rounds: int) -> list[dict[str, str]]:
    messages = [SYSTEM]
    for number in range(rounds):
        messages.append({"role": "user", "content": f"cat {number}"})
        messages.append({"role": "assistant", "content": f"dog {number}"})
    return [*messages, {"role": "user", "content": "cat?"}]


def chat_llm(name: str) -> LLM:
    """Return a tiny model, with a context of 96, that speaks a format."""
    tokenizer = every_control_tokenizer().with_chat_format(name)
    return LLM.from_parts(tiny_decoder(vocab_size=tokenizer.vocab_size), tokenizer)


def test_a_long_history_leaves_room_for_the_answer() -> None:
    llm = chat_llm("chatml")
    params = SamplingParams(max_tokens=20, temperature=0)
    messages = talk(9)
    with pytest.raises(RequestError, match=r"expected fewer than 96"):
        llm.chat(messages, params)
    fitted = llm.fit_history(messages, params)
    assert fitted.messages[0] == SYSTEM
    assert fitted.messages[-1] == messages[-1]
    assert len(fitted.dropped) >= 2
    assert 60 < len(fitted.rendered.ids) <= 76
    answer = llm.chat(fitted.messages, params)
    assert answer.prompt_token_ids == fitted.rendered.ids
    assert llm.fit_history(talk(1), params).dropped == []


def test_a_long_answer_takes_half_the_context_at_most() -> None:
    for max_tokens in (None, 95, 1000):
        fitted = chat_llm("chatml").fit_history(talk(9), SamplingParams(max_tokens=max_tokens))
        assert 30 < len(fitted.rendered.ids) <= 48


def test_a_question_longer_than_the_context() -> None:
    messages = [{"role": "user", "content": "cat " * 99}]
    with pytest.raises(RequestError, match=r"The last question is \d+ tokens long .* at most 76"):
        chat_llm("chatml").fit_history(messages, SamplingParams(max_tokens=20))


def test_a_text_of_the_format_ends_an_answer() -> None:
    tokenizer = every_control_tokenizer().with_chat_format("aquila-chat")
    shape = SHAPE.model_copy(update={"max_seq_len": 256})
    decoder = new_decoder(shape, tokenizer.vocab_size)
    decoder.init_weights(torch.Generator().manual_seed(0))
    llm = LLM.from_parts(decoder, tokenizer)
    [mark] = tokenizer.encode("#")
    question = [{"role": "user", "content": "cat?"}]
    always = SamplingParams(logit_bias={mark: 100.0}, max_tokens=5)
    answer = llm.chat(question, always)
    assert (answer.text, answer.finish_reason, len(answer.token_ids)) == ("", "stop", 3)
    assert "".join(llm.stream(question, always)) == ""
    going_on = always.model_copy(update={"ignore_eos": True})
    assert llm.chat(question, going_on).text == "#####"
    [continued] = llm.generate([[1, 2]], always)
    assert continued.text == "#####"  # a text is not a chat
