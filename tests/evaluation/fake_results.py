"""Categories and results of fake recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patchcore_plugin.data.datasets import Category, TestImage
from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.evaluation.comparison import Candidate
from patchcore_plugin.evaluation.metrics.image import image_metrics
from patchcore_plugin.evaluation.metrics.pixel import pixel_metrics
from patchcore_plugin.evaluation.results import CategoryResult, Failure, ImageResult
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.held_out_score import HeldOutScore

CALIBRATION = Calibration.from_held_out(
    [HeldOutScore(score, 0.0, score) for score in (0.1, 0.2, 0.1 + 0.2)], "three images"
)


def make_category(root: Path, name: str) -> Category:
    paths = [root / name / f"{index}.png" for index in range(5)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")
    test = [TestImage(path, "hole" if k > 1 else "good", k > 1, None) for k, path in enumerate(paths[1:])]
    return Category(name, (paths[0],), tuple(test))


def make_candidates(**gains: int) -> list[Candidate]:
    return [Candidate(name, {"gain": gain, "size": (8, 8)}, {"seed": 0}) for name, gain in gains.items()]


class FakeMeasure:
    """Computes random but reproducible results, and records its calls."""

    def __init__(self, fails: tuple[str, ...] = (), interrupted_at: tuple[str, str] | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self.fails = fails
        self.interrupted_at = interrupted_at

    def __call__(self, candidate: Candidate, category: Category, folder: Path) -> CategoryResult:
        self.calls.append((candidate.name, category.name))
        if self.calls[-1] == self.interrupted_at:
            raise KeyboardInterrupt
        if candidate.name in self.fails:
            raise PatchcoreError("there is not\nenough memory")
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([candidate.recipe["gain"], len(category.name)])
        scores = rng.random(len(category.test))
        images = [
            ImageResult(
                image.path,
                image.kind,
                image.is_anomalous,
                float(score),
                folder / "overlays" / "x.png",
                "n.png",
                p_value=0.1,
                regions=2,
                area=0.3,
                why=folder / "why" / "x.png" if image.is_anomalous else None,
            )
            for image, score in zip(category.test, scores, strict=True)
        ]
        image = image_metrics([image.is_anomalous for image in images], scores)
        mask = np.zeros((9, 9), dtype=bool)
        mask[2:5, 2:6] = True
        pixel = pixel_metrics([mask], [rng.random((9, 9)) + mask / 2])
        failures = [Failure("a.png", "a.png: broken")] if candidate.recipe.get("unreadable") else []
        return CategoryResult(
            category.name,
            {"image_auroc": image.auroc, "aupro": pixel.aupro, "predict_seconds_per_image": float(rng.random())},
            image,
            pixel,
            tuple(images),
            tuple(failures),
            threshold=0.1 + 0.2,
            scale=(1 / 3, 2.0),
            calibration=CALIBRATION,
            model={"seed": 0, "software": {"python": "3"}},
        )
