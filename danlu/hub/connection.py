"""Requests to a hub: redirects that keep secrets at home, and answers sorted into kinds.

The standard library's client does all of it, so both hubs share one small downloader. The hubs' own
libraries were weighed: they do not compare the checksum of what arrived (huggingface_hub 2.4 checks
sizes), and each knows one hub only.
"""

import http.client
import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from danlu.errors import DownloadError
from danlu.files import parse_json

logger = logging.getLogger(__name__)

TIMEOUT_S = 30.0
ANSWER_BYTES = 64 * 2**20  # more than any list of files
TRANSIENT = (408, 429, 500, 502, 503, 504, 520, 522, 524)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class HubAnswer(Exception):
    """A hub said no: an HTTP status that another try does not change."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"HTTP {status} {code} {message}".strip())
        self.status = status
        self.code = code
        self.message = message


class Transient(Exception):
    """A trouble that may be over soon: a broken connection, a busy server.

    Attributes:
        retry_after_s: how long the server asks to wait.
        unreachable: nothing answers at that address.
    """

    def __init__(self, what: str, retry_after_s: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s
        self.unreachable = unreachable


class Connection:
    """Requests to one hub.

    Args:
        endpoint: address of the hub, such as "https://huggingface.co".
        secret: headers that only this hub may see.

    Raises:
        DownloadError: if the endpoint is no web address.
    """

    def __init__(self, endpoint: str, secret: Mapping[str, str]) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DownloadError(
                f"The endpoint {endpoint!r} is no web address. Expected one such as "
                "'https://huggingface.co'; correct HF_ENDPOINT or MODELSCOPE_DOMAIN."
            )
        if secret and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            logger.warning("The token travels unencrypted to %s; prefer https.", endpoint)
        self.endpoint = endpoint.rstrip("/")
        self._secret = dict(secret)
        self._opener = urllib.request.build_opener(SafeRedirects(tuple(secret)))

    def open(self, path: str, start: int = 0) -> http.client.HTTPResponse:
        """Return the answer to a GET of `path`, from byte `start` on if the server can do that.

        Raises:
            HubAnswer: if the hub refuses.
            Transient: if another try may help.
        """
        headers = {"User-Agent": "danlu", "Accept-Encoding": "identity", **self._secret}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(f"{self.endpoint}{path}", headers=headers)
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise _trouble(error) from None
        return answer

    def json(self, path: str) -> Any:
        """Return the JSON answer to a GET of `path`; raises as `open`, and `DownloadError`."""
        with self.open(path) as answer:
            try:
                text = answer.read(ANSWER_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _trouble(error) from None
        try:
            return parse_json(text)
        except ValueError:
            raise DownloadError(
                f"{self.endpoint}{path} answered with {text[:60]!r}, which is no JSON. Expected "
                "the interface of a hub; is the endpoint right?"
            ) from None


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; another host never sees the secret, and https stays https."""

    def __init__(self, secret_names: tuple[str, ...]) -> None:
        self._secret_names = secret_names

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request to the new address."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("https", old.scheme):
            raise DownloadError(
                f"{req.full_url} leads on to {newurl}, which is not protected. Expected https; "
                "the hub or something on the way is not what it seems."
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (old.scheme, old.netloc) != (new.scheme, new.netloc):
            for name in self._secret_names:
                request.remove_header(name.capitalize())
        return request


def _refusal(error: urllib.error.HTTPError) -> HubAnswer | Transient:
    if error.code in TRANSIENT:
        wait = error.headers.get("Retry-After", "")
        seconds = float(wait) if wait.isdigit() else 0.0
        return Transient(f"HTTP {error.code} {error.reason}", min(seconds, 300.0))
    code = error.headers.get("X-Error-Code", "")
    return HubAnswer(error.code, code, _message(error))


def _message(error: urllib.error.HTTPError) -> str:
    """Return the reason that a hub gives, from its header or its JSON."""
    told = error.headers.get("X-Error-Message")
    if told:
        return str(told)
    try:
        body = json.loads(error.read(10_000))
    except (ValueError, OSError, http.client.HTTPException):
        return ""
    if not isinstance(body, dict):
        return ""
    return str(body.get("error") or body.get("Message") or body.get("message") or "")


def _trouble(error: Exception) -> Transient:
    reason = getattr(error, "reason", error)
    unreachable = isinstance(reason, socket.gaierror | ConnectionRefusedError)
    return Transient(str(reason) or type(reason).__name__, unreachable=unreachable)
