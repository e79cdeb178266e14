"""`patchcore demo`: fit, predict and evaluate on synthetic images, offline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from patchcore_plugin.errors import ImageError

from . import completion, options
from .console import Reporter
from .evaluation import EvaluationRun, evaluate_recipe, print_evaluation


def command(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="Folder for images, model, results and report.")] = Path("demo"),
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            help="Backbone whose weights are installed.",
            autocompletion=completion.component_names("backbone"),
        ),
    ] = "efficientnet-lite0",
    device: options.DeviceOption = "auto",
    seed: options.SeedOption = 0,
) -> None:
    """Run the whole workflow on synthetic images: fit, predict, evaluate, report. Works offline."""
    from patchcore_plugin.data.datasets import load_category

    plugins = options.PluginFilter.from_context(context)
    host = plugins.create_host()
    detector_options = options.DetectorOptions(recipe="patchcore", backbone=backbone, device=device, seed=seed)
    detector_options.load_recipe().resolve(host, seed)
    from patchcore_plugin.data.synthetic import draw_dataset
    from patchcore_plugin.inference.explain import ExplanationPictures
    from patchcore_plugin.inference.runner import predict_files
    from patchcore_plugin.inference.writer import ResultsWriter
    from patchcore_plugin.models.detector import Detector

    start = time.perf_counter()
    category = load_category(draw_dataset(out / "images", seed=seed))
    print(
        f"images     {out / 'images'}: {len(category.train)} good images to fit on, "
        f"{len(category.test)} to test (synthetic)"
    )
    model = out / "model.safetensors"
    with Reporter() as progress:
        detector_options.create_detector(host).fit(category.train, keep_thumbnails=True, progress=progress).save(model)
        print(f"fit        {model}")
        detector = Detector.load(model, device=device, host=host)
        paths = [image.path for image in category.test]
        explain = ExplanationPictures(detector.thumbnails)
        with ResultsWriter(out / "results", detector.map_scale, explain=explain) as writer:
            for done, result in enumerate(predict_files(detector, paths), start=1):
                if not isinstance(result.outcome, ImageError):
                    writer.write(result.outcome)
                progress("scoring images", done, len(paths))
        print(f"predict    {out / 'results' / 'results.jsonl'}, with heat maps, overlays and explanations")
        run = EvaluationRun(
            categories=[category], out=out / "evaluation", plugins=plugins, progress=progress, on_error="stop"
        )
        evaluation = evaluate_recipe(run, detector_options)
    print_evaluation(evaluation, run.out)
    print(f"done       in {time.perf_counter() - start:.0f} s; open {run.out / 'report.html'}")
