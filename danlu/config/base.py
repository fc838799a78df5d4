"""The base of every typed config: frozen, strict, no unknown keys, help text on each field."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen record that refuses unknown keys and wrong types (STYLE section 4)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())
