"""`patchcore demo`: the main job on images that it draws itself, offline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from patchcore_plugin.errors import ImageError

from . import completion, setup
from .console import Reporter
from .evaluate import run, show


def command(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="Folder for images, model, results and report.")] = Path("demo"),
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            help="A backbone whose weights are here.",
            autocompletion=completion.names_of("backbone"),
        ),
    ] = "efficientnet-lite0",
    device: setup.DeviceOption = "auto",
    seed: setup.SeedOption = 0,
) -> None:
    """Draw a small line of parts (synthetic), then fit, predict, evaluate and report."""
    from patchcore_plugin.data.datasets import load_category

    host = setup.host_of(context)
    wanted = setup.Setup(recipe="patchcore", backbone=backbone, device=device, seed=seed)
    wanted.load().resolved(host, seed)
    from patchcore_plugin.data.synthetic import draw_dataset
    from patchcore_plugin.inference.explain import ExplanationPictures
    from patchcore_plugin.inference.runner import predict_files
    from patchcore_plugin.inference.writer import ResultsWriter
    from patchcore_plugin.models.detector import Detector

    start = time.perf_counter()
    category = load_category(draw_dataset(out / "images", seed=seed))
    print(
        f"drawn      {out / 'images'}: {len(category.train)} good images to fit on, "
        f"{len(category.test)} to judge (synthetic)"
    )
    model = out / "model.safetensors"
    with Reporter() as progress:
        wanted.detector(host).fit(category.train, keep_thumbnails=True, progress=progress).save(model)
        print(f"fitted     {model}")
        detector = Detector.load(model, device=device, host=host)
        paths = [image.path for image in category.test]
        explain = ExplanationPictures(detector.thumbnails)
        with ResultsWriter(out / "results", detector.map_scale, explain=explain) as writer:
            for done, result in enumerate(predict_files(detector, paths), start=1):
                if not isinstance(result.outcome, ImageError):
                    writer.write(result.outcome)
                progress("judging images", done, len(paths))
        print(f"predicted  {out / 'results' / 'results.jsonl'}, heat maps, overlays and why-pictures beside it")
        evaluation = run([category], wanted, host, out / "evaluation", "stop", progress)
    show(evaluation, out / "evaluation")
    print(f"done       in {time.perf_counter() - start:.0f} s; open {out / 'evaluation' / 'report.html'}")
