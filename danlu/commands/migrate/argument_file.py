"""A file of arguments: the JSON of PaddleNLP, the YAML of FlagAI."""

from pathlib import Path
from typing import Any

from danlu.config.yaml_text import parse_yaml
from danlu.errors import ConfigError


def read_arguments(path: Path) -> dict[str, Any]:
    """Return the arguments in a JSON or YAML file.

    Raises:
        ConfigError: if it is missing, damaged, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"The file of arguments '{path}' is not here; expected the .json or .yaml that the old "
            "command was given. Run this in the old folder, or correct the path."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"'{path}' cannot be read ({error}); expected a JSON or YAML file in UTF-8."
        ) from None
    values = parse_yaml(text.replace("\t", "  "), f"'{path}'")
    if not isinstance(values, dict):
        raise ConfigError(f"'{path}' holds no arguments; expected an object of flags and values.")
    return values
