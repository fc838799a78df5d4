"""Opening folders, text to ids and back, control tokens, prompt prefixes, fingerprints."""

import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tokenizer_cases import CORPUS, TRICKY, random_text, tiny_tokenizer
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from danlu.errors import DataError, TokenizerError
from danlu.tokenizer import compare_tokenizers, load_tokenizer
from danlu.tokenizer.incremental import IncrementalDecoder
from danlu.tokenizer.kinds import kinds
from danlu.tokenizer.special import AddedToken, Splitter


def write_tokenizer_json(folder: Path, backend: Backend, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def stories(shared: Path) -> Path:
    return shared / "data/models/stories260K"


@pytest.fixture
def llama2(shared: Path) -> Path:
    return shared / "data/tokenizers/llama2"


def test_stories_ids_match_the_published_ones(stories: Path) -> None:
    tokenizer = load_tokenizer(stories)
    goldens = json.loads((stories / "model_goldens.json").read_text())["greedy"]
    assert len(goldens) == 4
    for case in goldens:
        assert tokenizer.prompt_prefix() + tokenizer.encode(case["prompt"]) == case["prompt_ids"]
        ids = case["prompt_ids"] + case["greedy_new_ids"]
        assert tokenizer.decode(ids, skip_special=True) == case["text"]


def test_llama2_golden_encodings(llama2: Path) -> None:
    tokenizer = load_tokenizer(llama2)
    cases = json.loads((llama2 / "golden_encodings.json").read_text())["cases"]
    assert len(cases) == 32
    texts = [case["text"] for case in cases]
    assert tokenizer.encode_batch(texts) == [case["ids"] for case in cases]
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]
        spans = tokenizer.encode_spans(case["text"])
        assert spans.ids == case["ids"]
        assert [a for a, _ in spans.spans] == sorted(a for a, _ in spans.spans)


def test_what_a_sentencepiece_folder_declares(stories: Path, llama2: Path) -> None:
    for folder, vocab_size in ((stories, 512), (llama2, 32000)):
        tokenizer = load_tokenizer(folder)
        assert tokenizer.vocab_size == vocab_size
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)
        assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
        assert tokenizer.prompt_prefix() == [1]
        assert tokenizer.stop_ids() == [2]
        assert tokenizer.chat_format is None


def test_sentencepiece_text_never_becomes_a_control_token(stories: Path) -> None:
    tokenizer = load_tokenizer(stories)
    assert not {0, 1, 2} & set(tokenizer.encode("<s> hi </s>"))
    assert tokenizer.decode(tokenizer.encode("<s> hi </s>")) == "<s> hi </s>"
    assert tokenizer.encode("<s>hi</s>", allow_special=True) == [1, *tokenizer.encode("hi"), 2]
    assert tokenizer.decode(tokenizer.encode("<s>hi</s>", allow_special=True)) == "<s>hi</s>"


def test_sentencepiece_added_tokens(stories: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    shutil.copytree(stories, folder)
    added = {"512": {"content": "<|im_end|>", "special": True}, "513": {"content": "<think>"}}
    added["513"]["special"] = False
    config = json.loads((stories / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | {"added_tokens_decoder": added})
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == 514
    ids = tokenizer.encode("so <think>it<|im_end|>", allow_special=True)
    assert ids[-1] == 512
    assert 513 in ids
    assert tokenizer.encode_spans("a<think>b").spans[-2:] == [(1, 8), (8, 9)]
    plain = tokenizer.encode("so <think>it<|im_end|>")
    assert 513 in plain
    assert 512 not in plain
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.special_tokens == tokenizer.special_tokens


def test_byte_level_text_never_becomes_a_control_token() -> None:
    tokenizer = tiny_tokenizer()
    control = set(tokenizer.special_tokens.values())
    for text in TRICKY:
        framed = f"a{text} b"
        assert not control & set(tokenizer.encode(framed))
        assert not control & {i for ids in tokenizer.encode_batch([framed]) for i in ids}
        assert tokenizer.decode(tokenizer.encode(framed)) == framed
    assert tokenizer.encode("<|im_end|>", allow_special=True) == [2]
    assert tokenizer.decode([2, 0], skip_special=True) == ""
    assert tokenizer.decode([2, 0]) == "<|im_end|><|endoftext|>"


def test_a_named_token_is_control_even_when_the_file_does_not_say_so(tmp_path: Path) -> None:
    backend = Backend.from_str(tiny_tokenizer().model.files()["tokenizer.json"].decode())
    backend.add_tokens(["<end>"])
    folder = write_tokenizer_json(tmp_path / "t", backend, eos_token="<end>")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_id == tokenizer.special_tokens["<end>"]
    assert tokenizer.eos_id not in tokenizer.encode("the <end>")
    assert tokenizer.encode("<end>", allow_special=True) == [tokenizer.eos_id]


def test_additional_control_tokens_that_are_plain_vocabulary(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_tokenizer().save(tmp_path)
    extra = ["the", "<nowhere>"]
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"additional_special_tokens": extra})
    )
    tokenizer = load_tokenizer(tmp_path)
    assert "the vocabulary has no '<nowhere>'" in caplog.text
    control = tokenizer.special_tokens["the"]
    assert control in tiny_tokenizer().encode("the")
    assert control not in tokenizer.encode("the")
    assert tokenizer.decode(tokenizer.encode("the the")) == "the the"
    assert tokenizer.encode("the", allow_special=True) == [control]


def test_unigram_vocabularies_cannot_spell_their_control_pieces(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((c, -2.0) for c in "\u2581abcs<>/")]
    backend = Backend(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["</s>", "<unk>"])
    folder = write_tokenizer_json(tmp_path / "t", backend, eos_token="</s>", unk_token="<unk>")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_id == 1
    for text in ("a</s>b", "</s></s>", "</s>"):
        assert 1 not in tokenizer.encode(text)
        assert 1 not in tokenizer.encode_batch([text])[0]
        assert 1 not in tokenizer.encode_spans(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_metaspace_prefixes_follow_the_library(tmp_path: Path, scheme: str) -> None:
    pieces = [("<unk>", 0.0), *((c, -2.0) for c in "\u2581abc"), ("\u2581ab", -1.0)]
    backend = Backend(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    backend.add_special_tokens(["</s>"])
    tokenizer = load_tokenizer(write_tokenizer_json(tmp_path / "t", backend, eos_token="</s>"))
    for text in ("ab</s>ab c", "</s>ab", "a"):
        assert tokenizer.encode(text, allow_special=True) == backend.encode(text).ids
        assert tokenizer.decode(backend.encode(text).ids) == text


def test_random_text_round_trips(llama2: Path) -> None:
    rng = random.Random(7)
    for tokenizer in (tiny_tokenizer(), load_tokenizer(llama2)):
        texts = [random_text(rng) for _ in range(300)]
        if tokenizer.model.marks_each_byte:  # sentencepiece reads its own space as a space
            texts = [text.replace("\u2581", "_") for text in texts]
        batch = tokenizer.encode_batch(texts)
        for text, ids in zip(texts, batch, strict=True):
            assert tokenizer.encode(text) == ids
            assert tokenizer.encode_spans(text).ids == ids
            assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("half", [chr(0xD83D), chr(0xDCFF)])
def test_what_is_no_character_is_refused(half: str) -> None:
    tokenizer = tiny_tokenizer()
    for encode in (tokenizer.encode, tokenizer.encode_spans, lambda t: tokenizer.encode_batch([t])):
        with pytest.raises(TokenizerError, match="half of a surrogate pair, or a byte"):
            encode(f"a {half} b")
    with pytest.raises(TokenizerError, match="half of a surrogate pair"):
        tokenizer.render_chat([{"role": "user", "content": half}])


def test_encoding_from_many_threads() -> None:
    tokenizer = tiny_tokenizer()
    texts = [random_text(random.Random(seed)) for seed in range(200)]
    expected = [tokenizer.encode(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == expected


def test_the_bos_of_a_template_processor(tmp_path: Path) -> None:
    document = json.loads(tiny_tokenizer().model.files()["tokenizer.json"])
    begin = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.prompt_prefix() == [1]
    assert 1 not in tokenizer.encode("text")
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert load_tokenizer(tmp_path).prompt_prefix() == []


def test_splitter_covers_text_and_honours_the_flags() -> None:
    tokens = [
        AddedToken("<a>", 1),
        AddedToken("<a><a>", 2, rstrip=True),
        AddedToken("w", 3, single_word=True),
        AddedToken("<l>", 4, lstrip=True),
    ]
    splitter = Splitter(tokens)
    text = "x<a><a>  y w wow <l><a>"
    parts = list(splitter.split(text))
    assert "".join(text[part.start : part.end] for part in parts) == text
    found = [(text[p.start : p.end], p.token.token_id) for p in parts if p.token]
    assert found == [("<a><a>  ", 2), ("w", 3), (" <l>", 4), ("<a>", 1)]
    assert next(Splitter([]).split("abc")).token is None


def test_fingerprint_ignores_layout_and_sees_content(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint()
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=None, sort_keys=True))
    assert load_tokenizer(tmp_path).fingerprint() == tokenizer.fingerprint()
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert load_tokenizer(tmp_path).fingerprint() != tokenizer.fingerprint()


def test_sentencepiece_save_and_load(stories: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(stories)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.encode("Once upon") == tokenizer.encode("Once upon")
    assert again.prompt_prefix() == [1]


def test_kinds_are_found_by_file_name() -> None:
    found = {file for kind in kinds() for file in kind.FILES}
    assert found >= {
        "tokenizer.json",
        "tokenizer.model",
    }


def test_compare_tokenizers() -> None:
    rows = compare_tokenizers({"en": CORPUS[:1], "zh": CORPUS[1:2]}, {"ours": tiny_tokenizer()})
    assert [row.kind for row in rows] == ["en", "zh"]
    assert rows[1].bytes_per_document == len(CORPUS[1].encode())
    assert rows[1].tokens_per_document["ours"] == len(tiny_tokenizer().encode(CORPUS[1]))
    assert rows[1].tokens_per_document["ours"] < rows[1].bytes_per_document / 3
    with pytest.raises(DataError, match=r"No documents of kind code"):
        compare_tokenizers({"code": []}, {})


def test_missing_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"does not exist; expected a folder"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "weights.bin").touch()
    with pytest.raises(TokenizerError, match=r"Looked for: tokenizer.json, qwen.tiktoken.*weigh"):
        load_tokenizer(tmp_path)


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": ')
    with pytest.raises(TokenizerError, match=r"not a valid tokenizer.json"):
        load_tokenizer(tmp_path)
    path.write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(TokenizerError, match=r"refused by the tokenizers library"):
        load_tokenizer(tmp_path)
    path.unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"\x0atruncated")
    with pytest.raises(TokenizerError, match=r"refused by the sentencepiece library"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(TokenizerError, match=r"holds a list; expected a JSON object"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", b'{"chat_template": [1]}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {}}}'),
        ("tokenizer_config.json", b'{"eos_token": {"text": "x"}}'),
        ("chat_template.jinja", b"\xff\xfe"),
        ("added_tokens.json", b'{"<x>": "many"}'),
    ],
)
def test_broken_side_files(tmp_path: Path, name: str, content: bytes) -> None:
    tiny_tokenizer().save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=r"A side file of the tokenizer in .* not as exp"):
        load_tokenizer(tmp_path)


def test_unknown_names_and_flags(tmp_path: Path) -> None:
    tiny_tokenizer().save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"eos_token": "<eos>", "bos_token": "<bos>"}')
    with pytest.raises(TokenizerError, match=r"no bos_token '<bos>', eos_token '<eos>'"):
        load_tokenizer(tmp_path)
    config.write_text('{"add_bos_token": "yes"}')
    with pytest.raises(TokenizerError, match=r"add_bos_token = 'yes'; expected true or false"):
        load_tokenizer(tmp_path).prompt_prefix()


def test_decoders_that_cannot_stream_are_refused(tmp_path: Path) -> None:
    backend = Backend(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(TokenizerError, match=r"decoder .'WordPiece'.; expected ByteLevel"):
        load_tokenizer(write_tokenizer_json(tmp_path / "t", backend))


def test_whole_words_are_joined_by_spaces(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"<unk>": 0, "a": 1, "b,": 2, "c": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = load_tokenizer(write_tokenizer_json(tmp_path / "t", backend))
    for ids in ([1, 2, 3], [0, 3], [2], []):
        assert tokenizer.decode(ids) == backend.decode(ids)
        streamed = IncrementalDecoder(tokenizer)
        assert "".join(map(streamed.push, ids)) + streamed.finish() == backend.decode(ids)
    assert tokenizer.encode("a  c\nb, d") == backend.encode("a  c\nb, d").ids == [1, 3, 2, 0]


def test_ids_without_token_decode_to_nothing() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == ""
    with pytest.raises(TokenizerError, match=r"Cannot decode the id -100"):
        tokenizer.decode([-100])
