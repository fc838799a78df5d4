"""ChatGLM-6B: numbered rounds as one text; `[gMASK] <sop>` follow the prompt, `<eop>` the answer.

Earlier rounds are part of the one text that is encoded at once, so that only the last answer of a
conversation is learned; its prompt is then exactly the prompt at inference. The model sees all of
the prompt at once (a prefix mask), so that none of it could be learned.
Source: `ChatGLMForConditionalGeneration.chat` and `build_inputs_with_special_tokens`.
"""

from danlu.tokenizer.chat.chat_format import ChatInput
from danlu.tokenizer.chat.messages import taking_turns
from danlu.tokenizer.chat.segments import Segment, SegmentFormat, hidden, turn_of
from danlu.tokenizer.folded import ONLY_LAST, Rounds, folded_rounds

END = "<eop>"
ROUNDS = Rounds(first=0, header="[Round {}]\n问：", answer="\n答：", end="\n", bare=True)


def write(chat: ChatInput) -> list[Segment]:
    """Return the segments of a conversation."""
    prompt, answer = folded_rounds(chat, ROUNDS)
    if chat.add_generation_prompt or answer is not None:
        prompt += [hidden("[gMASK]"), hidden("<sop>")]
    if answer is None:
        return prompt
    turn = turn_of(answer)
    written = Segment(answer["content"], "assistant", learn=True, alone=True, turn=turn)
    return [*prompt, written, hidden(END, learn=True, turn=turn)]


FORMAT = SegmentFormat(
    name="chatglm-6b",
    roles=("user", "assistant"),
    stops=(END,),
    segments=write,
    template=None,  # the control tokens stand after the prompt and have no text in it
    problems=taking_turns,
    only_last=ONLY_LAST,
    sees_prompt_whole=True,
)
