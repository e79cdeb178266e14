"""Compare this package with anomalib and faiss: equal inputs and threads, in turns, in one run.

`make bench-peers` runs it in a separate environment. `benchmarks/README.md` explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import patchcore_plugin as pp
from benchmarks import _features
from benchmarks._measure import Row, four_digits, in_turn, memory, peak_memory, write_row, write_tables
from patchcore_plugin.kernels._native import SWITCH
from patchcore_plugin.kernels.coreset import greedy_coreset
from patchcore_plugin.kernels.embedding import adaptive_embedding
from patchcore_plugin.kernels.embedding.reference import unfold_embedding
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.kernels.screening import squared_distances

PROBE = 500
"""Picks from which the time of a whole selection by anomalib is extrapolated."""
LAYERS = ["layer2", "layer3"]
WEIGHTS = _features.CACHE / "wide_resnet50.safetensors"
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def _k_center_greedy(embedding: Tensor) -> Any:
    """Return anomalib's selection of a tenth. It projects points [N, D] first, but not points [N, 1, D]."""
    module: Any = import_module("anomalib.models.components.sampling.k_center_greedy")
    module.tqdm = lambda steps, **_: steps
    return module.KCenterGreedy(embedding=embedding, sampling_ratio=0.1)


def _select(points: Tensor, count: int) -> Tensor:
    torch.manual_seed(0)
    selection = _k_center_greedy(points[:, None])
    selection.coreset_size = count
    return torch.tensor(selection.select_coreset_idxs())


def coreset(options: argparse.Namespace) -> None:
    """Time `greedy_coreset` and the loop of anomalib's KCenterGreedy, without projection, from the same start."""
    cases = [(n, 128, percent) for n in (20_000, 80_000, 160_720) for percent in (1, 10)] + [(80_000, 1024, 10)]
    for n, dims, percent in cases:
        case = f"{n:,} x {dims}, {percent} %{_kernels(options)}"
        if options.case not in case:
            continue
        points = _features.patch_vectors(dims)[:n].clone()
        count = n * percent // 100
        probe = min(PROBE, count)
        growth, start = memory("VmRSS"), time.perf_counter()
        theirs = _select(points, probe)
        expected = (time.perf_counter() - start) * count / probe
        growth = max(0.0, memory("VmRSS") - growth) * count / probe
        first = int(theirs[0])
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**20
        whole = expected < options.whole_below and growth < free / 2
        picks = count if whole else probe
        results: dict[str, tuple[Tensor, Tensor]] = {}

        def run_ours() -> None:
            results["ours"] = greedy_coreset(points, count, first)  # noqa: B023

        def run_theirs() -> None:
            results["theirs"] = _select(points, picks), torch.empty(0)  # noqa: B023

        row = in_turn({"ours": run_ours, "anomalib": run_theirs}, options.seconds)
        notes = []
        if not whole:
            _scale(row, "anomalib", count / probe)
            notes.append(f"anomalib extrapolated from its first {probe} picks, to which the following refers")
        index, radii = results["ours"]
        theirs = results["theirs"][0]
        differ = picks - int(torch.isin(index[:picks], theirs).sum())
        distance, _ = NearestRows(points[theirs])(points)
        notes.append(
            f"{differ} of {picks:,} picks differ; covering radius theirs / ours {distance.max() / radii[picks - 1]:.7f}"
        )
        if growth > 100:
            notes.append(f"anomalib's memory would grow by {growth / 1024:.1f} GiB")
        write_row("coreset", case, {**row, "notes": notes})


def _kernels(options: argparse.Namespace) -> str:
    return ", torch kernels" if options.torch else ""


def _scale(row: Row, peer: str, factor: float) -> None:
    row["peers_s"][peer] = four_digits(row["peers_s"][peer] * factor)
    row["ratio_range"][peer] = [four_digits(ratio * factor) for ratio in row["ratio_range"][peer]]


def nearest(options: argparse.Namespace) -> None:
    """Time `NearestRows`, faiss, cdist and anomalib's search for 6,272 queries of 1024 values."""
    faiss = import_module("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    for kind in _features.KINDS:
        queries = _features.patch_vectors(1024, kind=kind, test=True)
        for rows in (2_000, 16_000, 100_000):
            case = f"{kind}, {rows:,} rows{_kernels(options)}"
            if options.case not in case:
                continue
            bank = _features.bank(rows, kind)
            start = time.perf_counter()
            search = NearestRows(bank)
            prepared = time.perf_counter() - start
            flat = faiss.IndexFlatL2(1024)
            flat.add(bank.numpy())
            model = _patchcore_model("resnet18", ["layer1"])
            model.memory_bank = bank
            results: dict[str, Tensor] = {}

            def ours() -> None:
                results["ours"] = search(queries)[1][:, 0]  # noqa: B023

            def flat_l2() -> None:
                results["faiss Flat"] = torch.from_numpy(flat.search(queries.numpy(), 1)[1][:, 0])  # noqa: B023

            def cdist() -> None:
                parts = [torch.cdist(part, bank).min(dim=1).indices for part in queries.split(1024)]  # noqa: B023
                results["cdist + min"] = torch.cat(parts)  # noqa: B023

            def anomalib() -> None:
                results["anomalib"] = model.nearest_neighbors(queries, n_neighbors=1)[1]  # noqa: B023

            row = in_turn(
                {"ours": ours, "faiss Flat": flat_l2, "cdist + min": cdist, "anomalib": anomalib}, options.seconds
            )
            sample = torch.linspace(0, len(queries) - 1, min(64, 2_000_000 // rows)).long().tolist()
            truth = [
                int(torch.cat([squared_distances(part, queries[i]) for part in bank.split(8192)]).argmin())
                for i in sample
            ]
            wrong = int((results["ours"][sample] != torch.tensor(truth)).sum())
            notes = [f"ours wrong for {wrong} of {len(sample)} queries by brute force in float64"]
            notes += [f"{peer} differs for {int((results[peer] != results['ours']).sum())}" for peer in row["peers_s"]]
            write_row("nearest", case, {**row, "notes": [*notes, f"preparation {prepared:.2f} s"]})


def _patchcore_model(backbone: str, layers: list[str]) -> Any:
    module = import_module("anomalib.models.image.patchcore.torch_model")
    return module.PatchcoreModel(backbone=backbone, layers=layers, pre_trained=False).eval()


def _batch(images: list[_features.Image]) -> Tensor:
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - MEAN) / STD


def embedding(options: argparse.Namespace) -> None:
    """Time `adaptive_embedding`, the unfolding of patches, and the backbone that precedes them."""
    backbone = _features.component("backbone", "wide_resnet50", weights="random")
    inputs = _batch(_features.images(8, 224, test=True))
    maps = backbone(inputs)

    def ours() -> Tensor:
        return adaptive_embedding(maps, 3, 1, 1024, "bilinear")

    def unfold() -> Tensor:
        return unfold_embedding(maps, 3, 1, 1024)

    with torch.inference_mode():
        row = in_turn({"ours": ours, "unfold": unfold, "backbone": lambda: backbone(inputs)}, options.seconds)
        growth, theirs = peak_memory(ours), peak_memory(unfold)
        difference = float((ours() - unfold()).abs().max() / unfold().abs().max())
    share = row["ours_s"] / row["peers_s"]["backbone"]
    notes = [f"{share:.1%} of the backbone's time", f"memory {growth:.0f} MiB, unfold {theirs:.0f} MiB"]
    write_row(
        "embedding",
        "wide_resnet50 at 224, 8 images, 1024 values",
        {**row, "notes": [*notes, f"largest relative difference {difference:.0e}"]},
    )


def _their_model() -> Any:
    """Return anomalib's model with the random weights in `WEIGHTS`, which are drawn the first time."""
    model = _patchcore_model("wide_resnet50_2", LAYERS)
    extractor = model.feature_extractor.feature_extractor
    if not WEIGHTS.is_file():
        save_file(import_module("torchvision").models.wide_resnet50_2().state_dict(), WEIGHTS)
    weights = load_file(WEIGHTS)
    extractor.load_state_dict({name: weights[name] for name in extractor.state_dict()})
    return model


def _detector(size: int, sampler: str) -> pp.Detector:
    return pp.Detector.from_recipe(
        "patchcore",
        device="cpu",
        preprocessing={"size": [size, size]},
        backbone={"weights": str(WEIGHTS)},
        sampler={"name": sampler, "ratio": 0.1},
    )


def predict(options: argparse.Namespace) -> None:
    """Time predictions of 8 images, and anomalib's model on inputs that are already normalised."""
    path = _features.CACHE / "detector-shared.safetensors"
    model = _their_model()
    if not path.is_file():
        _detector(256, "random").fit(_features.images(160, 256)).save(path)
    images = _features.images(8, 256, test=True)
    inputs = _batch(images)
    for precision in ("fp32", "bf16"):
        detector = pp.Detector.load(path, device="cpu", precision=precision)
        model.memory_bank = detector.bank.vectors
        rows, dims = detector.bank.vectors.shape
        case = f"wide_resnet50 {precision}, 8 images at 256, bank {rows:,} x {dims}{_kernels(options)}"
        if options.case not in case:
            continue
        results: dict[str, Any] = {}

        def ours() -> None:
            results["ours"] = detector.predict(images)  # noqa: B023

        def theirs() -> None:
            with torch.inference_mode():
                results["theirs"] = model(inputs)  # noqa: B023

        row = in_turn({"ours": ours, "anomalib": theirs}, options.seconds)
        scores = torch.tensor([prediction.score for prediction in results["ours"]])
        difference = float((results["theirs"].pred_score / scores - 1).abs().max())
        write_row("predict", case, {**row, "notes": [f"largest relative difference of a score {difference:.0e}"]})


def fit(options: argparse.Namespace) -> None:
    """Time fits on 200 images at 224 with 10 %, each in a new process, and measure their peak memory."""
    _features.images(options.images, 224)
    _their_model()
    results: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}

    def run(which: str) -> Callable[[], None]:
        command = [sys.executable, "-m", "benchmarks.peers", f"fit-{which}", "--images", str(options.images)]
        command += [] if options.budget is None else ["--budget", str(options.budget)]

        def start() -> None:
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[which].append(json.loads(ended.stdout.splitlines()[-1]))

        return start

    row = in_turn({"ours": run("ours"), "anomalib": run("theirs")}, options.seconds, rounds=3)
    ours, theirs = ({key: float(np.median([run[key] for run in runs])) for key in runs[0]} for runs in results.values())
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(results["ours"], results["theirs"], strict=False)]
    row |= {"ours_s": round(ours["seconds"], 2), "peers_s": {"anomalib": round(theirs["seconds"], 1)}}
    row |= {"ratio_range": {"anomalib": [min(ratios), max(ratios)]}}
    notes = [
        f"anomalib: features {theirs['features']:.0f} s, selection extrapolated from its first {PROBE} picks",
        f"peak memory {ours['peak'] / 1024:.2f} GiB, anomalib's to there {theirs['peak'] / 1024:.2f} GiB",
        "ours includes calibration, "
        + (
            "each image scored against a bank of two thirds of them"
            if options.budget is None
            else "on a held-out tenth of the images"
        ),
    ]
    case = f"wide_resnet50, {options.images} images at 224, 10 %"
    case += "" if options.budget is None else f", memory budget {options.budget} MB"
    write_row("fit", case, {**row, "notes": notes})


def fit_ours(options: argparse.Namespace) -> None:
    """Fit our detector, and print time and peak memory."""
    images, detector = _features.images(options.images, 224), _detector(224, "greedy-coreset")
    start = time.perf_counter()
    detector.fit(images, memory_budget=None if options.budget is None else options.budget * 1_000_000)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": memory("VmHWM")}))


def fit_theirs(options: argparse.Namespace) -> None:
    """Fit anomalib's model up to `PROBE` picks, and print extrapolated time and peak memory."""
    images, model = _features.images(options.images, 224), _their_model().train()
    start = time.perf_counter()
    for low in range(0, len(images), 8):
        model(_batch(images[low : low + 8]))
    model.memory_bank = torch.vstack(model.embedding_store)
    model.embedding_store.clear()
    features = time.perf_counter() - start
    selection = _k_center_greedy(model.memory_bank)
    count, laps = selection.coreset_size, []
    for picks in (1, PROBE + 1):
        selection.coreset_size = picks
        start = time.perf_counter()
        selection.select_coreset_idxs()
        laps.append(time.perf_counter() - start)
    seconds = features + laps[0] + (laps[1] - laps[0]) * (count - 1) / PROBE
    print(json.dumps({"seconds": seconds, "features": features, "peak": memory("VmHWM")}))


PARTS = {"coreset": coreset, "nearest": nearest, "embedding": embedding, "predict": predict, "fit": fit}
STEPS = {"fit-ours": fit_ours, "fit-theirs": fit_theirs}


def main() -> None:
    """Measure, and write the tables into the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}, or table [default: all]")
    parser.add_argument("--case", default="", help="run only cases whose name contains this text, such as '80,000'")
    parser.add_argument("--seconds", type=float, default=60.0, help="start no further round of a case after this time")
    parser.add_argument(
        "--whole-below",
        type=float,
        default=600.0,
        help="extrapolate anomalib's selection if it would take longer than this many seconds",
    )
    parser.add_argument("--torch", action="store_true", help="disable the compiled kernels, and write separate rows")
    parser.add_argument("--images", type=int, default=200, help="number of training images")
    parser.add_argument("--budget", type=int, metavar="MB", help="memory budget of our fit")
    options = parser.parse_args()
    if options.torch:
        os.environ[SWITCH] = "0"
    for part in options.parts or PARTS:
        if part != "table":
            {**PARTS, **STEPS}[part](options)
    if not set(options.parts) & set(STEPS):
        print(write_tables())


if __name__ == "__main__":
    main()
