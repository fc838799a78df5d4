"""The base of every typed config: frozen, strict, no unknown keys, help text on each field."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field

Seed = Annotated[int, Field(ge=0, lt=1 << 63)]  # what generators take


class Config(BaseModel):
    """A frozen record that refuses unknown keys, wrong types and infinities (STYLE section 4)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


def by_method(default: type[Config], *others: type[Config]) -> Discriminator:
    """Return what chooses among configs by their key ``method``; `default` where it is left out.

    The members of the union are tagged with their class names, which is how `danlu.config.load`
    tells the key path of a problem.
    """
    names = {
        method: cls.__name__
        for cls in (default, *others)
        for method in get_args(cls.model_fields["method"].annotation)
    }

    def choose(value: Any) -> str | None:
        if isinstance(value, dict):
            method = value.get("method", default.model_fields["method"].default)
        else:
            method = getattr(value, "method", None)
        return names.get(method) if isinstance(method, str) else None

    return Discriminator(
        choose,
        custom_error_type="unknown_method",
        custom_error_message=f"method should be one of {', '.join(map(str, names))}",
    )
