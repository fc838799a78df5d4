"""What a text is written in: Chinese, code, or something else, which counts as English.

A document in which every third line looks like code is code as a whole, with its comments and what
it quotes. Of any other, the lines with Chinese characters are Chinese and the rest English.
"""

import re

CHINESE, ENGLISH, CODE = "Chinese", "English", "code"

_CHINESE_CHARACTER = re.compile(r"[\u3400-\u9fff]")
_CODE_SHARE = 1 / 3
_CODE_LINE = re.compile(
    r"""^\s*(
        (def|class|elif|for|if|while|with|try|except|else|switch|func|fn)\b.*[:{]$
      | (from\s\S+\s)?import\s[\w.*,{} ]+
      | (return|raise|assert|const|let|var|static|public|private|package)\b
            (\s\S+|.*[()\[\]{}=;"].*)?$
      | [@#]\w[\w.]*(\(.*\)|\s*[<"].*)?$                # a decorator, an #include
      | .*[;{}]$
      | [)\]}]+[,;:]?$
      | \w[\w.\[\]"', ]*\s*(=|:=|[-+*/|]=)\s*\S.*$      # an assignment
      | [\w.]+\(.*\)(\s*\#.*)?$                         # a call
      | //.* | /\*.* | \*/ | \#\s.*
    )""",
    re.VERBOSE,
)


def is_code(text: str) -> bool:
    """Return whether at least a third of the lines that are not blank looks like code."""
    lines = [line for line in text.splitlines() if line.strip()]
    return sum(map(_is_code_line, lines)) >= _CODE_SHARE * max(len(lines), 1)


def _is_code_line(line: str) -> bool:
    return _CODE_LINE.match(line.rstrip()) is not None


def parts_by_kind(text: str) -> list[tuple[str, str]]:
    """Return the kinds that a document has, each with its part of the text; no part is blank."""
    if is_code(text):
        return [(CODE, text)] if text.strip() else []
    chinese: list[str] = []
    others: list[str] = []
    for line in text.splitlines():
        (chinese if _CHINESE_CHARACTER.search(line) else others).append(line)
    parts = ((CHINESE, "\n".join(chinese)), (ENGLISH, "\n".join(others)))
    return [(kind, part) for kind, part in parts if part.strip()]
