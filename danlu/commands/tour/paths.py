"""Where everything of a tour lies."""

from dataclasses import dataclass
from pathlib import Path

from danlu.commands.tour.material import Material


@dataclass(frozen=True)
class TourPaths:
    """The folders and files inside a tour's folder."""

    folder: Path

    @property
    def material(self) -> Material:
        """Text and conversations."""
        return Material(self.folder / "world")

    @property
    def tokenizer(self) -> Path:
        """The trained tokenizer."""
        return self.folder / "tokenizer"

    @property
    def pretrain(self) -> Path:
        """The run of pre-training."""
        return self.folder / "pretrain"

    @property
    def base(self) -> Path:
        """The pre-trained model."""
        return self.pretrain / "model"

    @property
    def finetune(self) -> Path:
        """The run of fine-tuning."""
        return self.folder / "finetune"

    @property
    def adapter(self) -> Path:
        """The fine-tuned adapter."""
        return self.finetune / "adapter"

    @property
    def model(self) -> Path:
        """The merged model: what one chats with."""
        return self.folder / "model"

    def quantized(self, bits: int) -> Path:
        """Return the model of so many bits."""
        return self.folder / f"model-int{bits}"

    @property
    def evaluate(self) -> Path:
        """What each model scored, a file each."""
        return self.folder / "evaluate"

    @property
    def metrics(self) -> Path:
        """The lines of both training runs, and the scores."""
        return self.folder / "metrics.jsonl"

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / "report.html"
