"""ChatGLM2-6B: numbered rounds as one text after `[gMASK] sop`; `</s>` ends the answer.

Earlier rounds are part of the one text that is encoded at once, so that only the last answer of a
conversation is learned; its prompt is then exactly the prompt at inference.
Source: `ChatGLMTokenizer.build_prompt` in `tokenization_chatglm.py`, and the family's fine-tuning.
"""

from danlu.tokenizer.chat.chat_format import ChatInput
from danlu.tokenizer.chat.messages import taking_turns
from danlu.tokenizer.chat.segments import Segment, SegmentFormat, hidden, turn_of
from danlu.tokenizer.folded import ONLY_LAST, Rounds, folded_rounds

END = "</s>"
ROUNDS = Rounds(first=1, header="[Round {}]\n\n问：", answer="\n\n答：", end="\n\n")
TEMPLATE = (
    "{{- '[gMASK]sop' }}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}"
    "{{- '[Round ' ~ (loop.index0 // 2 + 1) ~ ']\\n\\n问：' ~ message['content'] }}"
    "{%- if add_generation_prompt or not loop.last %}{{- '\\n\\n答：' }}{%- endif %}"
    "{%- else %}"
    "{{- message['content'] }}"
    "{%- if loop.last %}{{- eos_token }}{%- else %}{{- '\\n\\n' }}{%- endif %}"
    "{%- endif %}"
    "{%- endfor %}"
)


def write(chat: ChatInput) -> list[Segment]:
    """Return the segments of a conversation."""
    prompt, answer = folded_rounds(chat, ROUNDS)
    segments = [hidden("[gMASK]"), hidden("sop"), *prompt]
    if answer is None:
        return segments
    turn = turn_of(answer)
    written = Segment(answer["content"], "assistant", learn=True, alone=True, turn=turn)
    return [*segments, written, hidden(END, learn=True, turn=turn)]


FORMAT = SegmentFormat(
    name="chatglm2-6b",
    roles=("user", "assistant"),
    stops=(END,),
    segments=write,
    template=TEMPLATE,  # shows the two control tokens, which other tools put in only by their text
    problems=taking_turns,
    only_last=ONLY_LAST,
)
