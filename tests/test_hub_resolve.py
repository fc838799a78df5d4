"""Which files are fetched, and how an id becomes a folder: no network here."""

import subprocess
import sys
from pathlib import Path

import pytest

from danlu.errors import CheckpointError
from danlu.hub import HubName, cached_folder, models_folder, parse_name, resolve
from danlu.hub.choosing import choose
from danlu.hub.listing import RemoteFile, file_digest, is_intact
from danlu.hub.manifest import Manifest, read_manifest

CODE_FILES = [
    "modeling_qwen.py",
    "a/b.PY",
    "cache.cu",
    "kernel.so",
    "x.so.1",
    "train.sh",
    "note.ipynb",
    "optimizer.pt",
    "scheduler.pt",
    "training_args.bin",
    "rng_state_0.pth",
    "data.pkl",
]
NEEDED_FILES = [
    "qwen.tiktoken",
    "tokenizer.model",
    "ice_text.model",
    "vocab.json",
    "merges.txt",
    "README.md",
    "LICENSE",
    "chat_template.jinja",
    "adapter_model.safetensors",
    "adapter_model.bin",
]


def chosen(*paths: str, everything: bool = False) -> set[str]:
    files = [RemoteFile(path, 1) for path in paths]
    return {file.path for file in choose(files, everything).taken}


def shards(stem: str, ending: str, count: int, total: int) -> list[str]:
    return [f"{stem}-{i:05}-of-{total:05}.{ending}" for i in range(1, count + 1)]


def test_safetensors_are_preferred_where_they_are_complete() -> None:
    safe, pickled = ["model.safetensors"], ["pytorch_model.bin"]
    assert chosen(*safe, *pickled) == set(safe)
    safe = [*shards("model", "safetensors", 3, 3), "model.safetensors.index.json"]
    pickled = [*shards("pytorch_model", "bin", 2, 2), "pytorch_model.bin.index.json"]
    assert chosen(*safe, *pickled) == set(safe)
    assert chosen(*safe, *pickled, everything=True) == {*safe, *pickled}
    assert chosen(*safe[1:], *pickled) == set(pickled)
    assert chosen(*safe[1:], *pickled[1:]) == {*safe[1:], *pickled[1:]}
    assert chosen("model.safetensors", "other/pytorch_model.bin") == {
        "model.safetensors",
        "other/pytorch_model.bin",
    }


@pytest.mark.parametrize(
    "path",
    CODE_FILES,
)
def test_code_and_foreign_pickles_are_never_taken(path: str) -> None:
    assert chosen(path, "config.json") == {"config.json"}
    assert chosen(path, "config.json", everything=True) == {"config.json"}


@pytest.mark.parametrize(
    "path",
    ["tf_model.h5", "onnx/model.onnx", "q4.gguf", "a.png", ".gitattributes", "consolidated.pth"],
)
def test_what_danlu_does_not_read_is_taken_on_request(path: str) -> None:
    assert chosen(path, "config.json") == {"config.json"}
    assert chosen(path, everything=True) == {path}


@pytest.mark.parametrize(
    "path",
    NEEDED_FILES,
)
def test_what_a_model_needs_is_taken(path: str) -> None:
    assert chosen(path) == {path}


def test_checksums_are_those_of_git_and_lfs(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    assert file_digest(path, "git-sha1") == "ce013625030ba8dba906f756967f9e9ca394464a"
    sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    assert file_digest(path, "sha256") == sha
    assert is_intact(path, RemoteFile("file", 6, "sha256", sha))
    assert not is_intact(path, RemoteFile("file", 6, "sha256", "0" * 64))
    assert not is_intact(path, RemoteFile("file", 7))
    assert not is_intact(tmp_path, RemoteFile("file", 6))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def downloaded(
    model_id: str = "Qwen/Qwen-7B",
    revision: str = "main",
    source: str = "hf",
    complete: bool = True,
) -> Path:
    folder = cached_folder(source, model_id, revision)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    files = (RemoteFile("config.json", 2),)
    Manifest(source, model_id, revision, "c0ffee", True, files).write(folder, complete=complete)
    return folder


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


def test_an_id_is_its_folder(home: Path) -> None:
    folder = downloaded()
    assert folder == home / "models" / "hf" / "Qwen" / "Qwen-7B" / "main"
    for name in ("Qwen/Qwen-7B", "hf:Qwen/Qwen-7B", "hf:Qwen/Qwen-7B@main", "Qwen/Qwen-7B@main"):
        assert resolve(name) == folder


def test_hubs_and_revisions_are_kept_apart() -> None:
    there = downloaded(source="modelscope", revision="v1.0")
    assert resolve("Qwen/Qwen-7B") == there
    with pytest.raises(CheckpointError, match="no model of that id"):
        resolve("hf:Qwen/Qwen-7B")
    other = downloaded(source="modelscope", revision="refs/pr/1")
    with pytest.raises(CheckpointError, match=r"Name one: .*@refs/pr/1, Qwen/Qwen-7B@v1.0"):
        resolve("Qwen/Qwen-7B")
    assert resolve("modelscope:Qwen/Qwen-7B@refs/pr/1") == other
    main = downloaded(source="modelscope", revision="master")
    assert resolve("Qwen/Qwen-7B") == main


def test_what_was_not_downloaded_says_how() -> None:
    downloaded()
    with pytest.raises(CheckpointError, match="danlu download Qwen/Qwen-14B") as caught:
        resolve("Qwen/Qwen-14B")
    assert "Did you mean 'Qwen/Qwen-7B'" in str(caught.value)
    with pytest.raises(
        CheckpointError, match="danlu download a/b --source modelscope --revision x"
    ):
        resolve("modelscope:a/b@x")
    with pytest.raises(CheckpointError, match="is not a folder, and no id"):
        resolve("/no/such/place")


def test_unfinished_downloads_do_not_resolve() -> None:
    folder = downloaded(complete=False)
    for name in ("Qwen/Qwen-7B", folder):
        with pytest.raises(CheckpointError, match=r"unfinished.*danlu download Qwen/Qwen-7B"):
            resolve(name)


def test_a_download_that_lost_a_file_does_not_resolve() -> None:
    folder = downloaded()
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="unfinished"):
        resolve("Qwen/Qwen-7B")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', '{"files": [{"name": 1}]}'])
def test_a_damaged_manifest_is_one_clear_error(text: str) -> None:
    folder = downloaded()
    (folder / "danlu-download.json").write_text(text)
    for name in ("Qwen/Qwen-7B", folder):
        with pytest.raises(CheckpointError, match=r"danlu-download.json' cannot be read"):
            resolve(name)
    assert read_manifest(folder.parent) is None


def test_names() -> None:
    assert parse_name("modelscope:a/b@v1") == HubName("a/b", "modelscope", "v1")
    assert parse_name("gpt2") == HubName("gpt2")
    assert str(parse_name("hf:a/b@v1")) == "hf:a/b@v1"


def test_without_danlu_home_it_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DANLU_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert models_folder() == Path("/home/someone/.cache/danlu/models")


def test_resolving_needs_no_torch_and_opens_no_connection() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*arguments): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from danlu.hub import resolve\n"
        "from danlu.errors import CheckpointError\n"
        "try: resolve('no/such-model')\n"
        "except CheckpointError: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
