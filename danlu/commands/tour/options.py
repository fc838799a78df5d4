"""What a user may ask of a tour."""

from pathlib import Path

from pydantic import Field

from danlu.config.base import Config


class TourOptions(Config):
    """The tour's folder, its seed, how long it may take, and the user's own text."""

    out: Path = Field(Path("danlu-tour"), description="folder for everything the tour makes")
    seed: int = Field(0, ge=0, description="decides the world, the weights and every order")
    minutes: float | None = Field(
        None, gt=0, description="about how long to take; without it: a fixed number of steps"
    )
    corpus: Path | None = Field(
        None, description="your own text to learn from: a text or JSONL file, or a folder of them"
    )
    instructions: Path | None = Field(
        None, description="your own conversations to fine-tune on: a JSONL or JSON file"
    )

    def choices(self) -> dict[str, object]:
        """Return what decides the tour's content; the folder itself may be moved."""
        own = {"corpus": self.corpus, "instructions": self.instructions}
        paths = {name: str(path.resolve()) if path else None for name, path in own.items()}
        return {"seed": self.seed, "minutes": self.minutes, **paths}
