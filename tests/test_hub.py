"""Downloads from a hub on loopback: whole and verified, or nothing; never code."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_on_loopback import COMMIT, Hub, running

from danlu.cli.app import run
from danlu.errors import DownloadError, OutputError
from danlu.hub import HubName, download
from danlu.hub.connection import SafeRedirects
from danlu.hub.downloading import Downloaded
from danlu.progress import Silent

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = bytes(range(256)) * 3000
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}" * 50,
    "model.safetensors": WEIGHTS,
    "modeling_evil.py": b"raise SystemExit",
    "sub/tokenization.py": b"raise SystemExit",
    "sub/notes.txt": "丹炉".encode(),
}
TAKEN = {"config.json", "tokenizer.json", "model.safetensors", "sub/notes.txt"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in list(os.environ):
        if name.startswith(("HF_", "MODELSCOPE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-login"))
    with running(Hub(dict(FILES))) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("MODELSCOPE_DOMAIN", hub.endpoint)
        yield hub


def get(
    out: Path | None, name: str = "owner/model", everything: bool = False, **options: str
) -> Downloaded:
    hub_name = HubName(name, options.get("source"), options.get("revision"))
    pauses: list[float] = []
    token = options.get("token")
    return download(hub_name, out, token, everything, Silent(), pauses.append)


def names_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def assert_whole(folder: Path, taken: set[str] = TAKEN) -> None:
    assert names_in(folder) == taken | {"danlu-download.json", ".lock"}
    assert all((folder / name).read_bytes() == FILES[name] for name in taken)
    assert json.loads((folder / "danlu-download.json").read_text())["complete"] is True


@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_a_model_arrives_whole_and_without_code(hub: Hub, tmp_path: Path, source: str) -> None:
    done = get(tmp_path / "out", source=source)
    assert_whole(tmp_path / "out")
    assert done.fetched_bytes == sum(len(FILES[name]) for name in TAKEN)
    assert done.unverified == ()
    assert set(done.manifest.left_out) == {"modeling_evil.py", "sub/tokenization.py"}
    assert not hub.asked_for(".py")
    assert done.manifest.commit == (COMMIT if source == "hf" else "master")


def test_all_takes_everything_but_code(hub: Hub, tmp_path: Path) -> None:
    hub.files |= {"rust_model.ot": b"ot", "training_args.bin": b"pickle", "run.sh": b"rm"}
    assert "rust_model.ot" not in names_in(get(tmp_path / "some").folder)
    found = names_in(get(tmp_path / "all", everything=True).folder)
    assert "rust_model.ot" in found
    assert not {"training_args.bin", "run.sh", "modeling_evil.py"} & found


def test_again_fetches_nothing_but_verifies(hub: Hub, tmp_path: Path) -> None:
    get(tmp_path / "out")
    done = get(tmp_path / "out")
    assert (done.fetched_bytes, done.kept_files) == (0, len(TAKEN))
    assert_whole(tmp_path / "out")


def test_damaged_bytes_are_noticed_and_fetched_again(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = get(tmp_path / "out").folder
    spoiled = bytearray(WEIGHTS)
    spoiled[1234] ^= 1
    (folder / "model.safetensors").write_bytes(spoiled)
    done = get(folder)
    assert done.fetched_bytes == len(WEIGHTS)
    assert "model.safetensors is damaged" in caplog.text
    assert_whole(folder)


def test_a_broken_connection_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.break_after["model.safetensors"] = [1000, 400_000, 700_000]
    get(tmp_path / "out")
    ranges = [r.headers.get("Range") for r in hub.asked_for("/large/model.safetensors")]
    assert ranges == [None, "bytes=1000-", "bytes=400000-", "bytes=700000-"]
    assert_whole(tmp_path / "out")


def test_a_server_without_ranges_begins_again(hub: Hub, tmp_path: Path) -> None:
    hub.ranges = False
    hub.break_after["model.safetensors"] = [500_000]
    done = get(tmp_path / "out")
    assert done.fetched_bytes > len(WEIGHTS)
    assert_whole(tmp_path / "out")


def test_a_busy_server_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.statuses = {"listing": [503, 500], "config.json": [502, 429], "model.safetensors": [504]}
    get(tmp_path / "out")
    assert_whole(tmp_path / "out")


def test_what_arrives_damaged_is_fetched_again_once(hub: Hub, tmp_path: Path) -> None:
    hub.wrong["model.safetensors"] = 1
    get(tmp_path / "out")
    assert_whole(tmp_path / "out")
    hub.wrong["tokenizer.json"] = 9
    with pytest.raises(DownloadError, match=r"'tokenizer.json' 2 times with a wrong git-sha1"):
        get(tmp_path / "other")
    assert names_in(tmp_path / "other") <= {".lock", "danlu-download.json"} | {
        name for name in names_in(tmp_path / "other") if name.startswith(".danlu-download/")
    }


def test_what_never_comes_ends_in_one_error_and_can_go_on(hub: Hub, tmp_path: Path) -> None:
    hub.statuses["model.safetensors"] = [503] * 6
    hub.break_after["model.safetensors"] = [100_000]
    with pytest.raises(DownloadError, match="same command again"):
        get(tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
    done = get(tmp_path / "out")
    assert done.fetched_bytes <= len(WEIGHTS) + 100_000
    assert_whole(tmp_path / "out")


def test_killed_it_goes_on_later(hub: Hub, tmp_path: Path) -> None:
    hub.hold = threading.Event()
    hub.break_after["model.safetensors"] = [300_000]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "danlu", "download", "owner/model", "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    staged = out / ".danlu-download"
    while time.monotonic() < deadline:
        if staged.is_dir() and max((p.stat().st_size for p in staged.iterdir()), default=0) > 1000:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.hold.set()
    assert not set(names_in(out)) & TAKEN, "no file has its name before all are whole"
    arrived = max(p.stat().st_size for p in staged.iterdir())
    assert 0 < arrived < len(WEIGHTS)
    done = get(out)
    assert done.fetched_bytes <= len(WEIGHTS) - arrived + 200
    assert_whole(out)


def test_two_at_once_the_second_says_so(hub: Hub, tmp_path: Path) -> None:
    hub.hold = threading.Event()
    hub.break_after["model.safetensors"] = [300_000]
    out = tmp_path / "out"
    first = threading.Thread(target=get, args=(out,))
    first.start()
    while not hub.asked_for("/large/model.safetensors"):
        time.sleep(0.005)
    with pytest.raises(OutputError, match="Another run is at work"):
        get(out)
    hub.hold.set()
    first.join()
    assert_whole(out)


def test_tokens_reach_the_hub_and_nobody_else(hub: Hub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    get(tmp_path / "hf", token="hf_secret")
    get(tmp_path / "ms", source="modelscope", token="hf_secret")
    large = hub.asked_for("/large/model.safetensors")
    assert large
    assert not any({"Authorization", "Cookie"} & request.headers.keys() for request in large)
    assert hub.requests[0].headers["Authorization"] == "Bearer hf_secret"
    assert "hf_secret" not in (tmp_path / "hf" / "danlu-download.json").read_text()


def test_a_redirect_out_of_https_is_refused() -> None:
    request = urllib.request.Request("https://hub.example/a", headers={"Authorization": "Bearer x"})
    handler = SafeRedirects(("Authorization",))
    with pytest.raises(DownloadError, match=r"leads on to http://other\.example/a"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://other.example/a")
    there = handler.redirect_request(request, None, 302, "Found", {}, "https://other.example/a")
    here = handler.redirect_request(request, None, 302, "Found", {}, "https://hub.example/b")
    assert there is not None
    assert here is not None
    assert not there.has_header("Authorization")
    assert here.get_header("Authorization") == "Bearer x"


@pytest.mark.parametrize("variable", ["HF_TOKEN", "MODELSCOPE_API_TOKEN"])
def test_tokens_come_from_the_environment(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    hub.token = "secret"
    monkeypatch.setenv(variable, "secret")
    get(tmp_path / "out", source="hf" if variable == "HF_TOKEN" else "modelscope")
    assert_whole(tmp_path / "out")


def test_a_token_that_a_login_stored_is_used(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "stored"
    (tmp_path / "token").write_text("stored\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    get(tmp_path / "out")
    assert_whole(tmp_path / "out")


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((401, ""), r"no open model 'owner/model'.*HF_TOKEN"),
        ((403, "GatedRepo"), r"given access.*said the hub.*Ask for it on http.*/owner/model"),
        ((401, "GatedRepo"), "given access"),
        ((404, "RepoNotFound"), r"no model 'owner/model' \(HTTP 404\)"),
        ((418, ""), "refused 'owner/model': HTTP 418"),
    ],
)
def test_refusals_say_what_to_do(
    hub: Hub, tmp_path: Path, refusal: tuple[int, str], said: str
) -> None:
    hub.token, hub.refusal = "needed", refusal
    with pytest.raises(DownloadError, match=said):
        get(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_gated_model_that_is_listed_openly(hub: Hub, tmp_path: Path) -> None:
    hub.statuses["config.json"] = [403]
    with pytest.raises(DownloadError, match="given access"):
        get(tmp_path / "out")
    assert not set(names_in(tmp_path / "out")) & TAKEN


@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_a_revision_that_is_not_there(hub: Hub, tmp_path: Path, source: str) -> None:
    with pytest.raises(DownloadError, match=r"no revision 'v1.1'.*Did you mean 'v1.0'") as caught:
        get(tmp_path / "out", source=source, revision="v1.1")
    assert "main, v1.0" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_newer_revision_replaces_files_and_takes_old_ones_away(hub: Hub, tmp_path: Path) -> None:
    out = get(tmp_path / "out").folder
    (out / "mine.txt").write_text("the user's own")
    hub.files["config.json"] = b'{"model_type": "bloom"}'
    del hub.files["sub/notes.txt"]
    done = get(out)
    assert done.kept_files == 2
    assert (out / "config.json").read_bytes() == hub.files["config.json"]
    assert not (out / "sub" / "notes.txt").exists()
    assert (out / "mine.txt").exists()


def test_foreign_files_are_never_overwritten(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("mine")
    with pytest.raises(OutputError, match=r"other files of these names:\n  - config.json"):
        get(out)
    assert (out / "config.json").read_text() == "mine"
    other = get(tmp_path / "other").folder
    hub.model_id = "someone/else"
    with pytest.raises(OutputError, match="holds 'owner/model' of hf"):
        get(other, "someone/else")


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "a/../../evil",
        "a\\b",
        "C:evil",
        "a//b",
        "a\nb",
        ".danlu-download/x",
        "danlu-download.json",
        "config.json/x",
        "x" * 300,
    ],
)
def test_file_names_that_leave_the_folder_are_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.files[name] = b"evil"
    with pytest.raises(DownloadError, match="cannot be stored safely"):
        get(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil").exists()


def test_a_disk_that_is_too_small_is_noticed_before(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"needs 768.* kB more.*1.0 kB free"):
        get(tmp_path / "out")
    assert not hub.asked_for("config.json")


def test_files_without_checksums_are_named(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.checksums = False
    assert set(get(tmp_path / "out").unverified) == TAKEN
    assert run(["download", "owner/model"]) == 0
    assert "4 without a checksum on the hub" in capsys.readouterr().out


def test_nothing_there_is_one_clear_error(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"127.0.0.1:9 cannot be reached.*modelscope"):
        get(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"siblings": 3}', b'{"siblings": [{}]}'])
def test_something_that_is_no_hub(hub: Hub, tmp_path: Path, answer: bytes) -> None:
    hub.garbage = answer
    with pytest.raises(DownloadError, match=r"Expected the interface of"):
        get(tmp_path / "out")


@pytest.mark.parametrize("endpoint", ["ftp://x", "file:///etc", "huggingface.co"])
def test_an_endpoint_that_is_no_address(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(DownloadError, match="no web address"):
        get(tmp_path / "out")


def test_the_command(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download", "owner/model"]) == 0
    shown = capsys.readouterr().out
    assert "every file equals the hub's checksum" in shown
    assert "2 (program code, which Danlu never runs): modeling_evil.py" in shown
    folder = tmp_path / "home" / "models" / "hf" / "owner" / "model" / "main"
    assert_whole(folder)
    assert run(["download", "modelscope:owner/model@v1.0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["revision"] == "v1.0"
    assert set(told["files"]) == TAKEN


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no model"], "is no id of a model"),
        (["../../etc"], "is no id of a model"),
        (["model-scope:owner/model"], "Did you mean 'modelscope'"),
        (["owner/model", "--source", "modelscop"], "Did you mean 'modelscope'"),
        (["owner/model", "--revision", "../x"], "is no revision"),
        (["hf:owner/model", "--source", "modelscope"], "Two hubs are named"),
        (["owner/model", "--token-file", "missing"], "cannot be read"),
    ],
)
def test_wrong_arguments(
    hub: Hub, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(["download", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not hub.requests


def test_a_token_file_with_something_else(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "token"
    path.write_text("two words")
    assert run(["download", "owner/model", "--token-file", str(path)]) == 2
    assert "holds no token" in capsys.readouterr().err
    path.write_text("secret\n")
    hub.token = "secret"
    assert run(["download", "owner/model", "--token-file", str(path)]) == 0
