import json
import random

import pytest
import torch
from engine_parts import tiny_decoder, tiny_llm, tiny_tokenizer

from danlu.engine.llm import LLM
from danlu.engine.sampling import SamplingParams
from danlu.errors import RequestError, TokenizerError

GREEDY = SamplingParams(temperature=0.0, max_tokens=24)
PROMPTS = ["Anna has", "苹果", "She gave Ben one.", "A", "Anna has three red apples"]
TALK = [{"role": "user", "content": "谁有苹果?"}]


class Recorder:
    """A progress that remembers."""

    def __init__(self):
        self.total, self.done = None, 0

    def start(self, what, total):
        self.total = total

    def advance(self, done, note=""):
        self.done += done

    def finish(self):
        self.done = float(self.done)


def test_answers_come_in_the_order_of_the_prompts():
    llm, tokenizer = tiny_llm(), tiny_tokenizer()
    answers = llm.generate([*PROMPTS, tokenizer.encode("Ben")], GREEDY)
    assert [tokenizer.decode(a.prompt_token_ids) for a in answers] == [*PROMPTS, "Ben"]
    assert all(a.text == tokenizer.decode(a.token_ids, skip_special=True) for a in answers)
    assert llm.generate("Anna has", GREEDY) == answers[:1]
    assert llm.generate([]) == []


def test_together_is_as_alone_greedy_and_sampled():
    llm = tiny_llm()
    params = [
        SamplingParams(temperature=0.0, max_tokens=20),
        SamplingParams(seed=1, max_tokens=30, top_p=0.9),
        SamplingParams(seed=2, max_tokens=5, repetition_penalty=1.3),
        SamplingParams(seed=3, max_tokens=25, top_k=40, logprobs=2),
        SamplingParams(seed=3, max_tokens=25, temperature=0.3, frequency_penalty=1.0),
    ]
    together = llm.generate(PROMPTS, params)
    for prompt, its_params, answer in zip(PROMPTS, params, together, strict=True):
        [alone] = llm.generate(prompt, its_params)
        assert alone.token_ids == answer.token_ids
        assert alone.text == answer.text
    assert len(together[3].logprobs) == len(together[3].token_ids)


def test_several_answers_share_a_prompt_and_differ_by_seed():
    llm = tiny_llm()
    several = llm.generate(PROMPTS[:2], SamplingParams(n=3, seed=5, max_tokens=12))
    assert [a.index for a in several] == [0, 1, 2, 0, 1, 2]
    assert len({tuple(a.token_ids) for a in several[:3]}) == 3
    [first] = llm.generate(PROMPTS[0], SamplingParams(seed=5, max_tokens=12))
    assert first.token_ids == several[0].token_ids


def test_without_a_seed_torch_decides():
    llm, params = tiny_llm(), SamplingParams(max_tokens=12)

    def draw():
        torch.manual_seed(3)
        return [a.token_ids for a in llm.generate(["A", "A"], params)]

    first, second = draw()
    assert first != second
    assert draw() == [first, second]


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_gives_the_same_text(seed):
    llm = tiny_llm()
    params = SamplingParams(seed=seed, max_tokens=40, temperature=1.3)
    [answer] = llm.generate(PROMPTS[1], params)
    pieces = list(llm.stream(PROMPTS[1], params))
    assert "".join(pieces) == answer.text
    rng = random.Random(seed)
    start = rng.randrange(len(answer.text) - 3)
    stop = answer.text[start : start + rng.randint(1, 3)]
    stopped = params.model_copy(update={"stop": (stop,)})
    [cut] = llm.generate(PROMPTS[1], stopped)
    assert cut.text == answer.text[: answer.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert "".join(llm.stream(PROMPTS[1], stopped)) == cut.text


def test_stop_tokens_end_the_answer_and_are_not_in_the_text():
    llm = tiny_llm()
    [free] = llm.generate("A", GREEDY)
    token = free.token_ids[5]
    params = GREEDY.model_copy(update={"stop_token_ids": (token,)})
    [answer] = llm.generate("A", params)
    end = free.token_ids.index(token)
    assert answer.token_ids == free.token_ids[: end + 1]
    assert answer.finish_reason == "stop"
    assert answer.text == tiny_tokenizer().decode(free.token_ids[:end], skip_special=True)
    assert "".join(llm.stream("A", params)) == answer.text


def test_the_models_own_end_can_be_ignored():
    llm, tokenizer = tiny_llm(), tiny_tokenizer()
    force = {tokenizer.eos_id: 100.0}
    [ended] = llm.generate("A", SamplingParams(logit_bias=force, max_tokens=5))
    assert (ended.token_ids, ended.text, ended.finish_reason) == ([tokenizer.eos_id], "", "stop")
    [going] = llm.generate("A", SamplingParams(logit_bias=force, max_tokens=5, ignore_eos=True))
    assert (len(going.token_ids), going.text, going.finish_reason) == (5, "", "length")


def test_the_context_ends_an_answer():
    llm = tiny_llm()
    room = llm.decoder.config.max_seq_len - 1
    for max_tokens in (None, 10_000):
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        [answer] = llm.generate([[5]], params)
        assert (len(answer.token_ids), answer.finish_reason) == (room, "length")


def test_every_wrong_prompt_is_named():
    llm = tiny_llm()
    with pytest.raises(RequestError) as caught:
        llm.generate([[1], [], [1] * 96, [1, 300], "A"], SamplingParams(stop_token_ids=[999]))
    message = str(caught.value)
    assert "prompt 1: it has no tokens" in message
    assert "prompt 2: it has 96 tokens; expected fewer than 96" in message
    assert "prompt 3: token ids [300] are outside the vocabulary; expected 0 to 299" in message
    assert "prompt 4: stop_token_ids [999]" in message


@pytest.mark.parametrize("prompts", [[1, 2, 3], [["a"]], [None]])
def test_prompts_of_another_kind_are_refused(prompts):
    with pytest.raises(RequestError, match=r"Prompt 0 is .* expected a text or a list of token"):
        tiny_llm().generate(prompts)


def test_parameters_must_fit_the_prompts():
    with pytest.raises(RequestError, match="3 prompts but 2 SamplingParams"):
        tiny_llm().generate(["a", "b", "c"], [GREEDY, GREEDY])


def test_a_conversation_gives_one_answer_and_a_list_a_list():
    llm, tokenizer = tiny_llm(), tiny_tokenizer()
    answer = llm.chat(TALK, GREEDY)
    assert answer.prompt_token_ids == tokenizer.render_chat(TALK).ids
    assert llm.chat([TALK, TALK], GREEDY) == [answer, answer]
    assert "".join(llm.stream(TALK, GREEDY)) == answer.text
    assert len(llm.chat([TALK], SamplingParams(n=2, max_tokens=3))) == 2


def test_the_end_of_a_turn_ends_a_chat_answer():
    llm, tokenizer = tiny_llm(), tiny_tokenizer()
    end = tokenizer.special_tokens["<|im_end|>"]
    answer = llm.chat(TALK, SamplingParams(logit_bias={end: 100.0}))
    assert (answer.token_ids, answer.text, answer.finish_reason) == ([end], "", "stop")


def test_what_chat_and_stream_cannot_do_is_said():
    llm = tiny_llm()
    with pytest.raises(RequestError, match=r"chat\(\[messages\], ...\)"):
        llm.chat(TALK, SamplingParams(n=2))
    with pytest.raises(RequestError, match="found n=2, logprobs=None"):
        llm.stream("A", SamplingParams(n=2))
    with pytest.raises(RequestError, match="it has no tokens"):
        llm.stream("")
    for nothing in ([], "hello"):
        with pytest.raises(RequestError, match="expected a conversation"):
            llm.chat(nothing)
    with pytest.raises(TokenizerError, match="unknown role"):
        llm.chat([{"role": "poet", "content": "x"}])


def test_control_tokens_in_a_text_prompt_stay_text():
    llm, tokenizer = tiny_llm(), tiny_tokenizer()
    [answer] = llm.generate("<|im_end|>", SamplingParams(max_tokens=1))
    assert tokenizer.special_tokens["<|im_end|>"] not in answer.prompt_token_ids


def test_progress_counts_answers():
    seen = Recorder()
    tiny_llm().generate(PROMPTS, SamplingParams(n=2, max_tokens=3), seen)
    assert (seen.total, seen.done) == (10, 10.0)


def test_leaving_a_stream_early_leaves_nothing_behind():
    llm = tiny_llm()
    for _ in llm.stream("A", GREEDY):
        break
    assert not torch.is_inference_mode_enabled()
    assert llm.decoder is tiny_decoder()
    assert not llm.decoder.training


@pytest.fixture
def stories(shared):
    return shared / "data" / "models" / "stories260K"


def test_a_trained_model_tells_its_story(stories):
    llm = LLM(stories)
    assert llm.decoder.dtype == torch.float32
    golden = json.loads((stories / "model_goldens.json").read_text(encoding="utf-8"))["greedy"]
    params = SamplingParams(temperature=0.0, max_tokens=64)
    answers = llm.generate([case["prompt"] for case in golden], params)
    for case, answer in zip(golden, answers, strict=True):
        assert answer.prompt_token_ids == case["prompt_ids"]
        assert answer.token_ids == case["greedy_new_ids"]
        assert case["prompt"] + answer.text == case["text"]
