"""The two hubs: Hugging Face and ModelScope, each as addresses, secrets and lists of files.

Source: the interfaces as huggingface_hub 2.4 and modelscope 1.40 use them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from danlu.errors import DownloadError, did_you_mean
from danlu.hub.connection import Connection, HubAnswer, Transient
from danlu.hub.listing import Listing, RemoteFile


class Source(Protocol):
    """A hub."""

    name: str
    title: str
    main_revision: str
    token_variable: str

    def endpoint(self) -> str:
        """Return the address, which the environment may change."""

    def token(self) -> str:
        """Return the user's token from the environment or from where its own tool keeps it."""

    def secret(self, token: str) -> dict[str, str]:
        """Return the headers that carry the token."""

    def listing(self, connection: Connection, model_id: str, revision: str) -> Listing:
        """Return the files of a model; raises as `Connection.json`."""

    def revisions(self, connection: Connection, model_id: str) -> list[str]:
        """Return the branches and tags of a model; raises as `Connection.json`."""

    def file_path(self, listing: Listing, file: RemoteFile) -> str:
        """Return the address of a file, without the endpoint."""


class HuggingFace:
    """The Hugging Face hub, or a mirror named by HF_ENDPOINT."""

    name = "hf"
    title = "Hugging Face"
    main_revision = "main"
    token_variable = "HF_TOKEN"

    def endpoint(self) -> str:
        """Return HF_ENDPOINT or the hub itself."""
        return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"

    def token(self) -> str:
        """Return HF_TOKEN, or the token that a login with Hugging Face's tool has stored."""
        if "HF_TOKEN" in os.environ:
            return os.environ["HF_TOKEN"].strip()
        home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
        stored = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")
        return stored.read_text(encoding="utf-8").strip() if stored.is_file() else ""

    def secret(self, token: str) -> dict[str, str]:
        """Return the headers that carry the token."""
        return {"Authorization": f"Bearer {token}"} if token else {}

    def listing(self, connection: Connection, model_id: str, revision: str) -> Listing:
        """Return the files of a model."""
        where = quote(revision, safe="")
        answer = connection.json(f"/api/models/{model_id}/revision/{where}?blobs=true")
        files = tuple(_hf_file(entry) for entry in _entries(answer, "siblings", self))
        commit = str(answer.get("sha") or revision)
        return Listing(self.name, model_id, revision, commit, files)

    def revisions(self, connection: Connection, model_id: str) -> list[str]:
        """Return the branches and tags of a model."""
        answer = connection.json(f"/api/models/{model_id}/refs")
        return [str(ref["name"]) for kind in ("branches", "tags") for ref in answer.get(kind, ())]

    def file_path(self, listing: Listing, file: RemoteFile) -> str:
        """Return the address of a file, at the commit that was listed."""
        return f"/{listing.model_id}/resolve/{quote(listing.commit, safe='')}/{quote(file.path)}"


class ModelScope:
    """ModelScope, or the site named by MODELSCOPE_DOMAIN."""

    name = "modelscope"
    title = "ModelScope"
    main_revision = "master"
    token_variable = "MODELSCOPE_API_TOKEN"

    def endpoint(self) -> str:
        """Return the site of MODELSCOPE_DOMAIN (a bare domain or an address) or the hub itself."""
        domain = os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
        return domain if "://" in domain else f"https://{domain}"

    def token(self) -> str:
        """Return MODELSCOPE_API_TOKEN."""
        return os.environ.get("MODELSCOPE_API_TOKEN", "").strip()

    def secret(self, token: str) -> dict[str, str]:
        """Return the headers that carry the token: it is the session's cookie."""
        return {"Cookie": f"m_session_id={token}"} if token else {}

    def listing(self, connection: Connection, model_id: str, revision: str) -> Listing:
        """Return the files of a model."""
        query = urlencode({"Revision": revision, "Recursive": "True"})
        answer = _data(connection.json(f"/api/v1/models/{model_id}/repo/files?{query}"))
        entries = [e for e in _entries(answer, "Files", self) if e.get("Type") != "tree"]
        files = tuple(_modelscope_file(entry) for entry in entries)
        return Listing(self.name, model_id, revision, revision, files)

    def revisions(self, connection: Connection, model_id: str) -> list[str]:
        """Return the branches and tags of a model."""
        known = _data(connection.json(f"/api/v1/models/{model_id}/revisions"))["RevisionMap"]
        return [str(ref["Revision"]) for kind in ("Branches", "Tags") for ref in known[kind] or ()]

    def file_path(self, listing: Listing, file: RemoteFile) -> str:
        """Return the address of a file."""
        query = urlencode({"Revision": listing.revision, "FilePath": file.path})
        return f"/api/v1/models/{listing.model_id}/repo?{query}"


def source_named(name: str) -> Source:
    """Return a hub by its name: hf or modelscope.

    Raises:
        DownloadError: if there is no such hub.
    """
    known: dict[str, Source] = {"hf": HuggingFace(), "modelscope": ModelScope()}
    if name not in known:
        raise DownloadError(
            f"There is no hub {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}."
        )
    return known[name]


def _hf_file(entry: Mapping[str, Any]) -> RemoteFile:
    path, size = str(entry["rfilename"]), int(entry["size"])
    lfs = entry.get("lfs")
    if lfs:
        return RemoteFile(path, int(lfs["size"]), "sha256", str(lfs["sha256"]))
    digest = str(entry.get("blobId") or "")
    return RemoteFile(path, size, "git-sha1" if digest else "", digest)


def _modelscope_file(entry: Mapping[str, Any]) -> RemoteFile:
    digest = str(entry.get("Sha256") or "").lower()
    algorithm = "sha256" if digest else ""
    return RemoteFile(str(entry["Path"]), int(entry["Size"]), algorithm, digest)


def _data(answer: Any) -> Any:
    """Return what a ModelScope answer carries; it says some refusals with HTTP 200."""
    if isinstance(answer, dict) and answer.get("Code", 200) != 200:
        raise HubAnswer(int(answer["Code"]), "", str(answer.get("Message", "")))
    return answer.get("Data") if isinstance(answer, dict) else None


def _entries(answer: Any, key: str, source: Source) -> list[Mapping[str, Any]]:
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DownloadError(
            f"{source.endpoint()} answered without a list of files ({key}). Expected the "
            f"interface of {source.title}; is the endpoint right?"
        )
    return found


def list_model(source: Source, connection: Connection, model_id: str, revision: str) -> Listing:
    """Return the files of a model, or say why there is no list.

    Raises:
        DownloadError: if there is no such model or revision, no permission, or no connection.
    """
    try:
        return source.listing(connection, model_id, revision)
    except HubAnswer as answer:
        raise refusal(source, connection, model_id, revision, answer) from None
    except (KeyError, TypeError, ValueError) as error:
        raise DownloadError(
            f"{connection.endpoint} described the files of '{model_id}' in an unknown way "
            f"({type(error).__name__}: {error}). Expected the interface of {source.title}."
        ) from error


def refusal(
    source: Source, connection: Connection, model_id: str, revision: str, answer: HubAnswer
) -> DownloadError:
    """Return the error that explains a hub's refusal and what to do about it."""
    page = f"{connection.endpoint}/{'' if source.name == 'hf' else 'models/'}{model_id}"
    told = f" The hub says: {answer.message}" if answer.message else ""
    give_token = f"set {source.token_variable}, or use --token-file"
    if answer.code == "GatedRepo" or answer.status == 403:
        return DownloadError(
            f"'{model_id}' may only be fetched by people who were given access.{told} Ask for it "
            f"on {page}, then {give_token} (HTTP {answer.status})."
        )
    if answer.status == 401:
        return DownloadError(
            f"{source.title} has no open model '{model_id}' (HTTP 401).{told} Check the spelling "
            f"of the id; if the model is private, {give_token}, and check that it is still valid."
        )
    if answer.code == "RevisionNotFound" or (
        answer.status == 404 and revision != source.main_revision
    ):
        return _no_revision(source, connection, model_id, revision, told)
    if answer.status == 404:
        return DownloadError(
            f"{source.title} has no model '{model_id}' (HTTP 404).{told} Check the spelling: "
            f"OWNER/NAME, as on {page}. It may be on the other hub (--source)."
        )
    return DownloadError(f"{source.title} refused '{model_id}': {answer}. Try again later.")


def _no_revision(
    source: Source, connection: Connection, model_id: str, revision: str, told: str
) -> DownloadError:
    try:
        known = source.revisions(connection, model_id)
    except (HubAnswer, Transient, DownloadError, KeyError, TypeError, AttributeError):
        known = []
    there = f" There are: {', '.join(known[:20])}." if known else ""
    return DownloadError(
        f"{source.title} has no revision {revision!r} of '{model_id}', or no such model "
        f"(HTTP 404).{told}{did_you_mean(revision, known)}{there} Expected a branch, tag or commit."
    )
