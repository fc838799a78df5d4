"""The documents tell the truth: files, tests, names, commands, rows and written keys exist."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from test_layering import FREE, PACKAGE, ROW_OF

from danlu import errors
from danlu.cli.table import COMMANDS
from danlu.tokenizer.kinds import kinds

ROOT = Path(__file__).resolve().parents[1]
DOCS = ("architecture.md", "errors.md", "file-formats.md", "fine-tuning.md", "quantization.md")
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?:danlu|tests|examples|docs|benchmarks|scripts)/[\w./-]+(?:::[\w.]+)?")
IDENTIFIER = re.compile(r"_*[A-Za-z]\w*(?:\.[A-Za-z_]\w*)*")


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def prose_of(name: str) -> str:
    return re.sub(r"^```.*?^```$", "", text_of(name), flags=re.MULTILINE | re.DOTALL)


def quoted(name: str) -> list[str]:
    return CODE.findall(prose_of(name).replace("\n", " "))  # a span may go over a line end


@cache
def names_in(path: Path) -> set[str]:
    """Functions, classes, `Class.method` and assigned names of a module."""
    return set(_names(ast.parse(path.read_text(encoding="utf-8")).body, ""))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _names(node.body, f"{prefix}{node.name}.")
        if isinstance(node, ast.Assign):
            yield from (prefix + target.id for target in node.targets if hasattr(target, "id"))


@cache
def words_of_the_package() -> set[str]:
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    return {word for source in sources for word in re.findall(r"\w+", source)}


def test_every_document_is_checked() -> None:
    assert sorted(path.name for path in (ROOT / "docs").glob("*.md")) == list(DOCS)
    assert all(text_of(name).isascii() for name in DOCS)


@pytest.mark.parametrize(
    ("name", "least"),
    [("architecture.md", 130), ("errors.md", 180), ("fine-tuning.md", 25), ("quantization.md", 30)],
)
def test_every_path_and_what_is_named_in_it_exists(name: str, least: int) -> None:
    found = [path for code in quoted(name) for path in PATH.findall(code) if "NAME" not in path]
    wrong = []
    for path in found:
        file, _, inside = path.partition("::")
        missing = not (ROOT / file).exists()
        if missing or (inside and inside not in names_in(ROOT / file)):
            wrong.append(path)
    assert len(found) >= least
    assert not wrong, wrong


@pytest.mark.parametrize("name", DOCS)
def test_no_document_points_at_a_line_number(name: str) -> None:
    assert not re.search(r"\.py:\d|\bline \d", prose_of(name))


def test_every_name_in_the_architecture_is_in_the_source() -> None:
    names = [code for code in quoted("architecture.md") if IDENTIFIER.fullmatch(code)]
    names = [name for name in names if not name.endswith((".json", ".jsonl"))]
    wrong = {name for name in names if not set(name.split(".")) <= words_of_the_package()}
    assert len(names) > 100
    assert not wrong, wrong


@pytest.mark.parametrize("name", DOCS)
def test_every_command_exists(name: str) -> None:
    used = set(re.findall(r"`danlu ([a-z]+)", text_of(name)))
    assert used <= {command.name for command in COMMANDS}
    assert used or name == "errors.md"


def test_the_rows_are_those_of_the_layering_test() -> None:
    table = re.findall(r"^\| (\d) \| ([^|]+) \|", text_of("architecture.md"), re.MULTILINE)
    told = {
        Path(path).stem: int(row) for row, cell in table for path in re.findall(r"`([^`]+)`", cell)
    }
    existing = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith(("_", "py."))}
    assert told == {name: ROW_OF[name] for name in existing}
    assert set(FREE) <= told.keys()


def test_every_error_is_explained() -> None:
    tree = {name for name in vars(errors) if name.endswith("Error")}
    told = {code for code in quoted("errors.md") if code.endswith("Error")}
    assert len(tree) > 10
    assert told | {"RequestError"} == tree


def test_each_error_is_named_where_the_table_says_it_is_shown() -> None:
    rows = [line for line in text_of("errors.md").splitlines() if "tests/test_" in line]
    rows = [row for row in rows if row.startswith("| ")]
    assert len(rows) > 30
    for row in rows:
        _, error, _, shown = row.strip("| ").split(" | ")
        files = {path.partition("::")[0] for path in PATH.findall(shown)}
        sources = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
        named = re.findall(r"`(\w+Error)`", error)
        assert all(name in sources or "complained" in sources for name in named), row


def test_kinds_have_what_the_architecture_says() -> None:
    parts = ("FILES", "PRIORITY", "claims", "open_model")
    assert all(hasattr(kind, part) for kind in kinds() for part in parts)


# Under these keys stands what the user, a model or the machine decides.
OPEN = {"config", "plan", "facts", "operators", "by_kind", "scheme", "rng", "sha256", "metrics"}


NUMBERED = re.compile(r"group_\d+|\d+")


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from keys_of(item)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in OPEN:
                yield from keys_of(inner)


def written_keys(path: Path) -> set[str]:
    """All keys in a JSON file, or in every line of a JSON Lines file."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    return {key for line in lines for key in keys_of(json.loads(line))}


@cache
def described_words() -> set[str]:
    """Every file and key that the page about file formats names."""
    told = {word for code in quoted("file-formats.md") for word in re.findall(r"[\w.-]+", code)}
    return told | {
        part.strip("/") for code in quoted("file-formats.md") for part in code.split("/")
    }


def undescribed(path: Path, known: set[str]) -> set[str]:
    """The keys in a file that are neither described nor known; groups of layers are numbered."""
    unknown = written_keys(path) - described_words() - known
    return {key for key in unknown if not NUMBERED.fullmatch(key)}


def test_every_written_file_and_key_is_described(tiny_tour: Path) -> None:
    files = [path for path in tiny_tour.rglob("*") if path.is_file()]
    assert len(files) > 60
    assert {path.name for path in files} - described_words() == set()
    # Its steps and roles are names of a tour, groups of layers are numbered, tokens have ids.
    known = set(json.loads((tiny_tour / "tour.json").read_text(encoding="utf-8"))["steps"])
    known |= {"before", "after", "merged", "int8", "int4", "base", "adapter"}
    read = [p for p in files if p.suffix in (".json", ".jsonl") and p.name != "tokenizer.json"]
    assert len(read) > 35
    for path in read:
        assert not undescribed(path, known), path.relative_to(tiny_tour)
