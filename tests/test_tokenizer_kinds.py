"""What each kind of tokenizer file is read as: control tokens, families, prompts, extra words."""

import base64
import json
import random
import shutil
from pathlib import Path

import pytest
from rank_folders import rank_lines, small_ranks, write_pairs, write_ranks
from tokenizer_cases import CORPUS, PUBLISHED, TRICKY, published, random_text
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from danlu.tokenizer import load_tokenizer
from danlu.tokenizer.families import Dialect, named_dialect
from danlu.tokenizer.kinds.tiktoken_ranks import RANK_FAMILIES, RankModel
from danlu.tokenizer.pair_merges import _slow_cut, order_of_equals, token_merges
from danlu.tokenizer.protobuf import bytes_field, fields, number_field
from danlu.tokenizer.special import AddedToken, read_settings
from danlu.tokenizer.wrapping import prepare_icetk, write_icetk

VOCAB_SIZES = {
    "aquila": 100008,
    "baichuan1": 64000,
    "baichuan2": 125696,
    "chatglm": 130344,
    "chatglm2": 64798,
    "glm-10b-chinese": 50011,
    "gpt2": 50257,
    "llama2": 32000,
    "llama3": 128256,
    "opt": 50265,
    "qwen1": 151851,
    "qwen2": 151669,
}
NAMED = {  # bos, eos, pad
    "aquila": ("[CLS]", "</s>", "<|endoftext|>"),
    "baichuan1": ("<s>", "</s>", "<unk>"),
    "baichuan2": ("<s>", "</s>", "<unk>"),
    "chatglm": ("<sop>", "<eop>", "<pad>"),
    "chatglm2": ("<s>", "</s>", "<unk>"),
    "glm-10b-chinese": (None, "<|endoftext|>", "<|endoftext|>"),
    "gpt2": ("<|endoftext|>", "<|endoftext|>", None),
    "llama2": ("<s>", "</s>", None),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", None),
    "opt": ("</s>", "</s>", "<pad>"),
    "qwen1": (None, "<|endoftext|>", "<|endoftext|>"),
    "qwen2": (None, "<|endoftext|>", "<|endoftext|>"),
}
AROUND = {  # the ids around a raw prompt, where there are any
    "chatglm": ([], [130001, 130004]),
    "chatglm2": ([64790, 64792], []),
    "glm-10b-chinese": ([50002], [50009, 50000, 50006]),
    "llama2": ([1], []),
    "llama3": ([128000], []),
    "opt": ([2], []),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_names_and_prompts(shared: Path, name: str) -> None:
    tokenizer = published(shared, name)
    assert tokenizer.vocab_size == VOCAB_SIZES[name]
    ids = tuple(text if text is None else tokenizer.control_id(text) for text in NAMED[name])
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == ids
    prefix, suffix = AROUND.get(name, ([], []))
    assert (tokenizer.prompt_prefix(), tokenizer.prompt_suffix()) == (prefix, suffix)
    assert tokenizer.encode_prompt("hi") == [*prefix, *tokenizer.encode("hi"), *suffix]


@pytest.mark.parametrize("name", PUBLISHED)
def test_text_becomes_no_control_token_and_comes_back(shared: Path, name: str) -> None:
    tokenizer = published(shared, name)
    rng = random.Random(11)
    texts = [f"a {text} b" for text in (*TRICKY, *list(tokenizer.special_tokens)[:40])]
    texts += [random_text(rng) for _ in range(40)]
    control = set(tokenizer.special_tokens.values()) - tokenizer.model.spoken
    control -= {tokenizer.model.token_id("<unk>")} if name == "glm-10b-chinese" else set()
    for text in texts:
        encoded = tokenizer.encode_spans(text)
        assert control.isdisjoint(tokenizer.encode(text))
        assert set(tokenizer.special_tokens.values()).isdisjoint(encoded.ids)
        if name not in ("baichuan1", "chatglm", "glm-10b-chinese", "qwen1", "qwen2"):  # these fold
            assert tokenizer.decode(encoded.ids) == text.replace("\u2581", " ") or "\u2581" in text


def test_control_tokens_are_found_where_they_are_allowed(shared: Path) -> None:
    cases = {
        "qwen1": ("<|im_start|>user<|extra_204|>", [151644, None, 151850]),
        "llama3": ("<|start_header_id|>user<|eot_id|>", [128006, None, 128009]),
        "chatglm2": ("[gMASK]sop<|user|>", [64790, 64792, 64795]),
        "chatglm": ("[gMASK]<sop>", [130001, 130004]),
        "glm-10b-chinese": ("[CLS][sMASK]dBLOCK", [50002, 50008, 50010]),
        "baichuan2": ("<reserved_106>", [195]),
        "aquila": ("<|startofpiece|></s>", [100000, 100007]),
    }
    for name, (text, expected) in cases.items():
        ids = published(shared, name).encode(text, allow_special=True)
        assert len(ids) == len(expected)
        assert all(want in (None, found) for found, want in zip(ids, expected, strict=True))
    assert published(shared, "chatglm2").encode("sophomore", allow_special=True) != [64792]


def test_baichuan_reads_reserved_pieces_from_text_but_not_from_messages(shared: Path) -> None:
    for name, ids in (("baichuan1", [31106, 195]), ("baichuan2", [191])):
        tokenizer = published(shared, name)
        assert tokenizer.encode("<reserved_102>") == ids
        assert 195 not in tokenizer.encode_spans("<reserved_106><reserved_102>").ids
        assert tokenizer.decode(tokenizer.encode_spans("<reserved_102>").ids) == "<reserved_102>"


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("llama3", "llama"),
        ("llama2", "llama2"),
        ("baichuan1", "baichuan_7b"),
        ("baichuan2", "baichuan2_13b"),
        ("chatglm", "chatglm_6b"),
        ("chatglm", "chatglm"),
        ("chatglm2", "chatglm3-6b"),
        ("glm-10b-chinese", "glm_10b_chinese"),
        ("aquila", "Aquila2"),
        ("opt", "opt_350m"),
        ("gpt2", "gpt2"),
    ],
)
def test_a_family_says_the_same_as_the_folder(shared: Path, name: str, family: str) -> None:
    told = load_tokenizer(shared / "data/tokenizers" / name, family=family)
    found = published(shared, name)
    assert told.encode("hello \u4f60\u597d 123") == found.encode("hello \u4f60\u597d 123")
    assert told.prompt_prefix() == found.prompt_prefix()
    assert told.fingerprint() == found.fingerprint()


def test_names_lead_to_dialects() -> None:
    expected = {
        "QWenTokenizer": Dialect.QWEN,
        "Qwen2TokenizerFast": Dialect.QWEN2,
        "qwen3_moe": Dialect.QWEN2,
        "ChatGLMTokenizer": None,
        "glm4_0414": Dialect.GLM4,
        "llama-3.1": Dialect.LLAMA3,
        "LlamaTokenizer": Dialect.LLAMA,
        "glm-10b-chinese": Dialect.GLM_10B,
        "deepseek_v3": None,
        "mistral": None,
    }
    assert {name: named_dialect(name) for name in expected} == expected


def test_sections_of_added_tokens(shared: Path) -> None:
    folder = shared / "data/tokenizers/qwen2"
    sizes = {
        family: len(read_settings(folder, family).declared)
        for family in ("qwen2", "qwen2-5", "Qwen2.5", "qwen3", None)
    }
    assert sizes == {"qwen2": 3, "qwen2-5": 22, "Qwen2.5": 22, "qwen3": 26, None: 26}
    tokenizer = published(shared, "qwen2")
    assert "<think>" not in tokenizer.special_tokens
    assert tokenizer.encode("a<think>b")[1] == 151667
    assert tokenizer.decode([151667, 151645], skip_special=True) == "<think>"


def test_gpt2_words_with_the_commands_of_glm(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "data/tokenizers/gpt2", family="glm_10b")
    ids = {"<|startofpiece|>": 50257, "[CLS]": 50259, "[gMASK]": 50263, "dBLOCK": 50265}
    assert ids.items() <= tokenizer.special_tokens.items()
    assert tokenizer.encode("hi there") == published(shared, "gpt2").encode("hi there")
    assert tokenizer.prompt_suffix() == [50263, 50256, 50257]


def test_a_glm4_rank_file(tmp_path: Path) -> None:
    family = RANK_FAMILIES[Dialect.GLM4]
    assert family.num_ranks == 151329
    ids = {text: family.num_ranks + i for i, text in enumerate(family.controls)}
    assert (ids["<|endoftext|>"], ids["<sop>"], ids["<|observation|>"]) == (151329, 151333, 151338)
    ranks = {token: rank for rank, token in enumerate(small_ranks())}
    added = tuple(AddedToken(text, token_id) for text, token_id in ids.items())
    model = RankModel(ranks, family, added, {})
    assert model.default_prefix == (151331, 151333)
    assert model.vocab_size == 151343
    assert model.encode("the cat sat", prefix=True)[-1] < 320
    assert model.token_id("<|user|>") == 151336


def test_ranks_and_what_follows_them(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_ranks(tmp_path / "t", small_ranks()), family="llama3")
    assert tokenizer.special_tokens == {
        "<|begin_of_text|>": 320,
        "<|end_of_text|>": 321,
        "<|eot_id|>": 322,
    }
    for text in CORPUS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<|eot_id|>", allow_special=True) == [322]


def test_extra_words_of_qwen(shared: Path, tmp_path: Path) -> None:
    shutil.copy(shared / "data/tokenizers/qwen1/qwen.tiktoken", tmp_path)
    plain = published(shared, "qwen1")
    word = "\u4e39\u7089"
    assert len(plain.encode(word)) > 1
    line = base64.b64encode(word.encode()) + b" 151851\n"
    (tmp_path / "qwen_extra.tiktoken").write_bytes(line)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode(word) == [151851]
    assert tokenizer.encode("<|im_end|>", allow_special=True) == [151645]
    assert tokenizer.encode("hello") == plain.encode("hello")
    assert tokenizer.vocab_size == 151852
    assert tokenizer.model.files()["qwen_extra.tiktoken"] == line


def test_the_first_release_of_chatglm(shared: Path, tmp_path: Path) -> None:
    source = (shared / "data/tokenizers/chatglm/ice_text.model").read_bytes()
    parts = list(fields(source))
    pieces = [bytes_field(1, value) for number, value in parts if number == 1][:130000]
    others = [bytes_field(number, value) for number, value in parts if number != 1]
    no_byte_fallback = bytes_field(2, number_field(35, 0))
    old = b"".join([*pieces, *others, no_byte_fallback])
    (tmp_path / "ice_text.model").write_bytes(old)
    tokenizer = load_tokenizer(tmp_path)
    new = published(shared, "chatglm")
    text = "\u4f60\u597d  there\n\tx"
    assert tokenizer.encode(text) == [20000 + token_id for token_id in new.encode(text)]
    assert tokenizer.control_id("[gMASK]") == 150001
    assert tokenizer.prompt_suffix() == [150001, 150004]
    assert tokenizer.vocab_size == 150344
    assert tokenizer.decode(tokenizer.encode(text)) == new.decode(new.encode(text))
    tokenizer.save(tmp_path / "saved")
    assert (tmp_path / "saved/ice_text.model").read_bytes() == old
    assert load_tokenizer(tmp_path / "saved").fingerprint() == tokenizer.fingerprint()


def test_white_space_as_pieces() -> None:
    assert write_icetk("a\n\tb   c d") == "a<n><|tab|>b<|blank_3|>c d"
    assert write_icetk(" " * 100) == "<|blank_80|><|blank_20|>"
    assert write_icetk(" " * 81) == "<|blank_80|> "
    prepared = prepare_icetk("a\nb")
    assert prepared.text == "a<n>b"
    assert prepared.origins == [0, 1, 1, 1, 2, 3]


def test_bloom(tmp_path: Path) -> None:
    """The published tokenizer of Bloom is a tokenizer.json with these rules."""
    backend = Backend(models.BPE())
    words = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path, family="bloom")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 3)
    rng = random.Random(5)
    for text in (*CORPUS, *(random_text(rng) for _ in range(100))):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert {0, 1, 2, 3}.isdisjoint(tokenizer.encode(text))
        if not any(control in text for control in special):
            assert tokenizer.encode(text) == backend.encode(text).ids


def test_merges_of_ranks_are_the_published_ones(shared: Path) -> None:
    document = published(shared, "gpt2").model.tokenizer_json()
    assert document is not None
    merges = [tuple(pair) for pair in document["model"]["merges"]]
    order = {left + right: 256 + rank for rank, (left, right) in enumerate(merges)}
    singles = {
        word: rank for rank, word in enumerate(w for w in document["model"]["vocab"] if len(w) == 1)
    }
    assert token_merges(singles | order) == merges


def reference_encoding(ranks: dict[str, int], text: str) -> list[str]:
    """Merging by concatenation: the best rank first, the leftmost of equals."""
    parts = list(text)
    while True:
        found = [(ranks.get(parts[i] + parts[i + 1]), i) for i in range(len(parts) - 1)]
        known = [(rank, i) for rank, i in found if rank is not None]
        if not known:
            return parts
        _, i = min(known)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@pytest.mark.parametrize("shared_ranks", [False, True])
def test_merges_of_any_ranks_encode_as_the_ranks_do(shared_ranks: bool) -> None:
    """Also where tokens rank before their parts, or several share a rank."""
    rng = random.Random(19)
    compared = 0
    for _ in range(150):
        words = {
            "".join(rng.choices("abc", k=rng.randint(2, 6))) for _ in range(rng.randint(3, 25))
        }
        numbers = [rng.randrange(9) if shared_ranks else i for i in range(len(words))]
        rng.shuffle(numbers)
        ordered = sorted(zip(numbers, sorted(words), strict=True))
        ranks = {"a": -1, "b": -1, "c": -1, **{word: rank for rank, word in ordered}}
        merges = order_of_equals(token_merges(ranks), ranks)
        if merges is None or (shared_ranks and any(_late_part(ranks, pair) for pair in merges)):
            continue
        vocab = {word: index for index, word in enumerate(ranks)}
        backend = Backend(models.BPE(vocab, merges))
        for _ in range(20):
            text = "".join(rng.choices("abc", k=rng.randint(1, 14)))
            assert backend.encode(text).tokens == reference_encoding(ranks, text)
            compared += 1
    assert compared > 300


def _late_part(ranks: dict[str, int], pair: tuple[str, str]) -> bool:
    return max(ranks[pair[0]], ranks[pair[1]]) >= ranks[pair[0] + pair[1]]


def test_a_quick_cut_is_the_slow_one() -> None:
    words = [w.decode("latin-1") for w in small_ranks(320)]
    ranks = {word: rank for rank, word in enumerate(words)}
    for left, right in token_merges(ranks):
        assert _slow_cut(ranks, left + right) == len(left)


def test_equals_that_circle_have_no_order() -> None:
    ranks = {"a": 0, "b": 0, "ab": 1, "ba": 1}
    assert order_of_equals([("a", "b"), ("b", "a")], ranks) is None
    runs = [("_", "_"), ("__", "_"), ("___", "_")]
    assert order_of_equals(runs, {"__": 1, "___": 1, "____": 1}) == [runs[1], runs[2], runs[0]]


def test_the_rank_file_is_told_from_sentencepiece_by_content(shared: Path, tmp_path: Path) -> None:
    kinds = {name: type(published(shared, name).model).__name__ for name in ("llama2", "llama3")}
    assert kinds == {"llama2": "SentencePieceModel", "llama3": "RankModel"}
    (tmp_path / "tokenizer.model").write_bytes(rank_lines(small_ranks()))
    (tmp_path / "added_tokens.json").write_text('{"<|eot_id|>": 320}')
    assert load_tokenizer(tmp_path, family="llama").encode("a") == [97]


def test_a_chat_format_for_a_folder_without_one(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "t")
    assert load_tokenizer(folder).chat_format is None
    given = load_tokenizer(folder, chat_format="llama2-chat")
    assert given.chat_format == "llama2-chat"
    given.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.chat_format == "llama2-chat"
    assert again.fingerprint() == given.fingerprint() != load_tokenizer(folder).fingerprint()
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert load_tokenizer(folder, chat_format="llama2-chat").chat_format == "jinja"
