"""A small hub on loopback: both interfaces, with every failure that a test asks for."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_BYTES = 1000  # larger files have a sha256 and lie on another host; smaller ones elsewhere here
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    sent: int = 0


@dataclass
class Hub:
    """What the server says; tests change it while it runs.

    Attributes:
        files: content by path.
        model_id, revisions: what exists.
        token: if set, who does not send it gets `refusal`.
        break_after: bytes after which the connection is cut, once for each entry, by path.
        statuses: answers to give before the file, by path.
        wrong: how many times a file is sent with a flipped byte.
        ranges: whether the server knows Range.
        listed: paths and sizes to list in place of the true ones.
        checksums: whether files are listed with them.
    """

    files: dict[str, bytes]
    model_id: str = "owner/model"
    revisions: tuple[str, ...] = ("main", "v1.0", "master")
    token: str = ""
    refusal: tuple[int, str] = (401, "")
    break_after: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)
    ranges: bool = True
    checksums: bool = True
    garbage: bytes | None = None
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""
    other_host: str = ""
    hold: threading.Event | None = None

    def asked_for(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path.endswith(path)]

    def hf_listing(self) -> Any:
        return {"sha": COMMIT, "siblings": [self._hf(*item) for item in self.files.items()]}

    def _hf(self, path: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": path, "size": len(data)}
        if self.checksums:
            entry["blobId"] = git_sha1(data)
        if self.checksums and len(data) > LFS_BYTES:
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        return entry

    def modelscope_listing(self) -> Any:
        entries = [
            {
                "Path": path,
                "Size": len(data),
                "Type": "blob",
                "Sha256": hashlib.sha256(data).hexdigest() if self.checksums else "",
            }
            for path, data in self.files.items()
        ]
        return {"Code": 200, "Data": {"Files": [{"Path": "sub", "Type": "tree"}, *entries]}}


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: object) -> None: ...

    def do_GET(self) -> None:
        hub, parts = self.hub, urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        hub.requests.append(Request(path, dict(self.headers)))
        if hub.garbage is not None:
            return self.answer(200, hub.garbage)
        if path.startswith("/large/"):
            return self.send_file(path.removeprefix("/large/"))
        if hub.token and hub.token not in self.secret():
            return self.refuse(*hub.refusal)
        if f"models/{hub.model_id}" not in path and not path.startswith(f"/{hub.model_id}/"):
            return self.refuse(404, "RepoNotFound")
        return self.route(path, query)

    def secret(self) -> str:
        return self.headers.get("Authorization", "") + self.headers.get("Cookie", "")

    def route(self, path: str, query: dict[str, list[str]]) -> None:
        hub = self.hub
        if hub.statuses.get("listing") and ("/revision/" in path or path.endswith("/repo/files")):
            return self.refuse(hub.statuses["listing"].pop(0), "")
        if "/revision/" in path:
            if path.rpartition("/revision/")[2] not in hub.revisions:
                return self.refuse(404, "RevisionNotFound")
            return self.answer_json(hub.hf_listing())
        if path.endswith("/refs"):
            names = [{"name": name} for name in hub.revisions]
            return self.answer_json({"branches": names, "tags": []})
        if path.endswith("/repo/files"):
            if query["Revision"][0] not in hub.revisions:
                return self.answer_json({"Code": 10010205001, "Message": "no such revision"}, 404)
            return self.answer_json(hub.modelscope_listing())
        if path.endswith("/revisions"):
            names = [{"Revision": name} for name in hub.revisions]
            return self.answer_json(
                {"Code": 200, "Data": {"RevisionMap": {"Branches": names, "Tags": None}}}
            )
        if path.startswith("/api/resolve-cache/"):
            return self.send_file(path.rpartition("::")[2])
        if path.endswith("/repo"):
            return self.send_file(query["FilePath"][0])
        return self.resolve(path.partition("/resolve/")[2].partition("/")[2])

    def resolve(self, name: str) -> None:
        if name not in self.hub.files:
            return self.refuse(404, "EntryNotFound")
        here = f"/api/resolve-cache/models/{self.hub.model_id}::{name}"
        is_large = len(self.hub.files[name]) > LFS_BYTES
        self.send_response(302 if is_large else 307)
        self.send_header("Location", f"{self.hub.other_host}/large/{name}" if is_large else here)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_file(self, name: str) -> None:
        hub, data = self.hub, self.hub.files[name]
        if hub.statuses.get(name):
            return self.refuse(hub.statuses[name].pop(0), "")
        if hub.wrong[name] > 0:
            hub.wrong[name] -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        asked = self.headers.get("Range") if hub.ranges else None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        breaks = hub.break_after.get(name)
        end = breaks.pop(0) if breaks else len(data)
        self.wfile.write(data[start:end])
        hub.requests[-1].sent = end - start
        if hub.hold is not None and end < len(data):
            self.wfile.flush()
            hub.hold.wait(10)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b'{"error": "said the hub"}', {"X-Error-Code": code})

    def answer_json(self, value: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve the hub at `hub.endpoint`, and large files under another name of this machine."""
    handler = type("Bound", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    port = server.server_address[1]
    hub.endpoint, hub.other_host = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
