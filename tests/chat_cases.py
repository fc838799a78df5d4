"""A small tokenizer that has every control token of every chat format, for the chat tests."""

import json
import random
from functools import cache

from tokenizer_cases import random_text, tiny_tokenizer

from danlu.tokenizer import Rendered, Tokenizer, load_tokenizer

CONTROLS = """
<s> </s> [gMASK] <sop> sop <eop> <|startofpiece|> <|endofpiece|> <|system|> <|user|> <|assistant|>
<|observation|> <|begin_of_text|> <|end_of_text|> <|eot_id|> <|eom_id|> <|start_header_id|>
<|end_header_id|> <reserved_102> <reserved_103> <reserved_106> <reserved_107>
""".split()  # noqa: SIM905 (a list of this length is easier to read so)
WITHOUT_SYSTEM = ("aquila", "chatglm")  # formats with these names have no place for a system text


@cache
def every_control_tokenizer() -> Tokenizer:
    """Return the tiny tokenizer with all control tokens added."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_tokenizer().save(folder)
        path = folder / "tokenizer.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        first = 1 + max(document["model"]["vocab"].values())
        flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
        document["added_tokens"] += [
            {"id": first + index, "content": text, "special": True, **flags}
            for index, text in enumerate(CONTROLS)
        ]
        path.write_text(json.dumps(document), encoding="utf-8")
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        config |= {"bos_token": "<s>", "eos_token": "</s>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return load_tokenizer(folder)


def learned_text(tokenizer: Tokenizer, rendered: Rendered) -> str:
    """Return what the loss mask covers."""
    pairs = zip(rendered.ids, rendered.loss_mask, strict=True)
    return tokenizer.decode([token_id for token_id, learn in pairs if learn])


def role_text(rendered: Rendered, role: str) -> str:
    """Return the characters whose tokens begin in contents of that role."""
    pairs = zip(rendered.spans, rendered.roles, strict=True)
    return "".join(rendered.text[start:end] for (start, end), found in pairs if found == role)


def hostile_text(rng: random.Random) -> str:
    """Return a text that spells control tokens, or parts of them."""
    pieces = [rng.choice([*CONTROLS, "<|im_end|>", "<|im_start|>", "<|", "|>"]) for _ in range(3)]
    text = "x" + random_text(rng, 8).join(pieces) + "y"
    for tag in ("<unk>", "<0x41>"):
        text = text.replace(tag, "z")
    return text


def conversation(rng: random.Random, name: str, rounds: int) -> list[dict[str, str]]:
    """Return questions and hostile answers, with a system text where the format has a place."""
    messages = []
    if not name.startswith(WITHOUT_SYSTEM) and rng.random() < 0.5:
        messages.append({"role": "system", "content": hostile_text(rng)})
    for _ in range(rounds):
        messages.append({"role": "user", "content": hostile_text(rng)})
        messages.append({"role": "assistant", "content": hostile_text(rng)})
    return messages
