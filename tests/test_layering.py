"""Imports point down: a package imports only from rows with a lower number, and never a neighbour.

The syntax trees of all modules are walked, imports inside functions included. There is no list of
exceptions.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "danlu"
ROWS = (
    ("errors", "files", "progress", "config", "kernels"),
    ("nn", "weights", "tokenizer", "hub"),
    ("models", "quantize", "adapters", "data"),
    ("parallel",),
    ("loading",),
    ("train", "engine", "export", "calibration"),
    ("eval", "server"),
    ("commands",),
    ("cli",),
)
FREE = ("errors", "files", "progress")  # a foundation within row 0, for all
FACADES = ("__init__", "__main__")  # name the others' public parts; nothing inside imports them
WITHOUT_TORCH = ("cli", "config", "hub", "errors", "files", "progress")
ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package as a syntax tree, by its path inside it."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def part_of(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Every imported module as a dotted name; `from danlu import x` counts as danlu.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            module = node.module or ""
            yield module
            if module == "danlu":
                yield from (f"danlu.{alias.name}" for alias in node.names)


def top_level_imports(tree: ast.Module) -> Iterator[str]:
    """What is imported when the module is: not inside functions, not for type checkers only."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from imported_names(node)


def may_import(importer: str, imported: str) -> bool:
    is_lower = ROW_OF[importer] > ROW_OF[imported]
    return is_lower or importer == imported or imported in FREE


def test_every_module_has_a_row() -> None:
    parts = {part_of(module) for module in modules()}
    assert parts - set(FACADES) <= set(ROW_OF)
    assert len(modules()) > 100


def test_imports_point_down() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, tree in modules().items()
        for name in imported_names(tree)
        if part_of(module) not in FACADES and name.startswith("danlu.")
        if name.split(".")[1] in ROW_OF and not may_import(part_of(module), name.split(".")[1])
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_inside_imports_the_facade_but_its_version() -> None:
    """`danlu.LLM` and the like are for users; inside, a name comes from where it lives."""
    taken = {
        (module, node.names[0].name)
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "danlu"
    }
    assert {name for _, name in taken} <= {"__version__"}


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_no_torch_at_import(part: str) -> None:
    trees = {m: tree for m, tree in modules().items() if part_of(m) == part}
    assert trees
    heavy = [
        f"{module} imports {name}"
        for module, tree in trees.items()
        for name in top_level_imports(tree)
        if name.split(".")[0] in ("torch", "transformers", "numpy", "matplotlib", "tokenizers")
    ]
    assert not heavy, "\n".join(heavy)


def test_only_the_command_line_prints() -> None:
    printing = [
        module
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert {part_of(module) for module in printing} <= {"cli"}


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("train", "models", True),
        ("train", "engine", False),
        ("models", "loading", False),
        ("models", "files", True),
        ("nn", "config", True),
        ("config", "errors", True),
        ("errors", "config", False),
        ("cli", "commands", True),
        ("commands", "cli", False),
        ("config", "kernels", False),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed
