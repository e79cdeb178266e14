"""Ours beside anomalib and faiss: the same inputs, the same threads, in turn, in one run.

`make bench-peers` runs it in an environment of its own. `benchmarks/README.md` says what each figure means.
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
from benchmarks import _features as made
from benchmarks._measure import Row, in_turn, keep, memory, peak_memory, rounded, write_tables
from patchcore_plugin.kernels.coreset import greedy_coreset
from patchcore_plugin.kernels.embedding import adaptive_embedding
from patchcore_plugin.kernels.embedding.reference import unfold_embedding
from patchcore_plugin.kernels.native import SWITCH
from patchcore_plugin.kernels.nearest import NearestRows
from patchcore_plugin.kernels.screening import squared_distances

PROBE = 500
"""Picks that anomalib's time for a whole selection is extrapolated from."""
LAYERS = ["layer2", "layer3"]
WEIGHTS = made.CACHE / "wide_resnet50.safetensors"
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def _k_center_greedy(embedding: Tensor) -> Any:
    """Return anomalib's selection of a tenth; it projects [N, D] first, and takes [N, 1, D] as they are."""
    module: Any = import_module("anomalib.models.components.sampling.k_center_greedy")
    module.tqdm = lambda steps, **_: steps
    return module.KCenterGreedy(embedding=embedding, sampling_ratio=0.1)


def _select(points: Tensor, count: int) -> Tensor:
    torch.manual_seed(0)
    selection = _k_center_greedy(points[:, None])
    selection.coreset_size = count
    return torch.tensor(selection.select_coreset_idxs())


def coreset(options: argparse.Namespace) -> None:
    """Time `greedy_coreset` beside the loop of anomalib's KCenterGreedy, without projection, from one start."""
    cases = [(n, 128, percent) for n in (20_000, 80_000, 160_720) for percent in (1, 10)] + [(80_000, 1024, 10)]
    for n, dims, percent in cases:
        case = f"{n:,} x {dims}, {percent} %{_kernels(options)}"
        if options.case not in case:
            continue
        points = made.patch_vectors(dims)[:n].clone()
        count = n * percent // 100
        probe = min(PROBE, count)
        grown, start = memory("VmRSS"), time.perf_counter()
        theirs = _select(points, probe)
        expected = (time.perf_counter() - start) * count / probe
        grown = max(0.0, memory("VmRSS") - grown) * count / probe
        first = int(theirs[0])
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**20
        whole = expected < options.whole_below and grown < free / 2
        picks = count if whole else probe
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def run_ours() -> None:
            found["ours"] = greedy_coreset(points, count, first)  # noqa: B023

        def run_theirs() -> None:
            found["theirs"] = _select(points, picks), torch.empty(0)  # noqa: B023

        row = in_turn({"ours": run_ours, "anomalib": run_theirs}, options.seconds)
        notes = []
        if not whole:
            _scale(row, "anomalib", count / probe)
            notes.append(f"anomalib extrapolated from its first {probe} picks, on which what follows is")
        index, radii = found["ours"]
        theirs = found["theirs"][0]
        differ = picks - int(torch.isin(index[:picks], theirs).sum())
        distance, _ = NearestRows(points[theirs])(points)
        notes.append(
            f"{differ} of {picks:,} picks differ; covering radius theirs / ours {distance.max() / radii[picks - 1]:.7f}"
        )
        if grown > 100:
            notes.append(f"anomalib's memory would grow by {grown / 1024:.1f} GiB")
        keep("coreset", case, {**row, "notes": notes})


def _kernels(options: argparse.Namespace) -> str:
    return ", torch kernels" if options.torch else ""


def _scale(row: Row, peer: str, factor: float) -> None:
    row["peers_s"][peer] = rounded(row["peers_s"][peer] * factor)
    row["ratio_range"][peer] = [rounded(each * factor) for each in row["ratio_range"][peer]]


def nearest(options: argparse.Namespace) -> None:
    """Time `NearestRows` beside faiss, cdist and anomalib's search: 6,272 queries of 1024 values."""
    faiss = import_module("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    for kind in made.KINDS:
        queries = made.patch_vectors(1024, kind=kind, test=True)
        for rows in (2_000, 16_000, 100_000):
            case = f"{kind}, {rows:,} rows{_kernels(options)}"
            if options.case not in case:
                continue
            bank = made.bank(rows, kind)
            start = time.perf_counter()
            search = NearestRows(bank)
            prepared = time.perf_counter() - start
            flat = faiss.IndexFlatL2(1024)
            flat.add(bank.numpy())
            model = _patchcore_model("resnet18", ["layer1"])
            model.memory_bank = bank
            found: dict[str, Tensor] = {}

            def ours() -> None:
                found["ours"] = search(queries)[1][:, 0]  # noqa: B023

            def flat_l2() -> None:
                found["faiss Flat"] = torch.from_numpy(flat.search(queries.numpy(), 1)[1][:, 0])  # noqa: B023

            def cdist() -> None:
                parts = [torch.cdist(part, bank).min(dim=1).indices for part in queries.split(1024)]  # noqa: B023
                found["cdist + min"] = torch.cat(parts)  # noqa: B023

            def anomalib() -> None:
                found["anomalib"] = model.nearest_neighbors(queries, n_neighbors=1)[1]  # noqa: B023

            row = in_turn(
                {"ours": ours, "faiss Flat": flat_l2, "cdist + min": cdist, "anomalib": anomalib}, options.seconds
            )
            sample = torch.linspace(0, len(queries) - 1, min(64, 2_000_000 // rows)).long().tolist()
            truth = [
                int(torch.cat([squared_distances(part, queries[i]) for part in bank.split(8192)]).argmin())
                for i in sample
            ]
            wrong = int((found["ours"][sample] != torch.tensor(truth)).sum())
            notes = [f"ours wrong for {wrong} of {len(sample)} queries by brute force in float64"]
            notes += [f"{peer} differs for {int((found[peer] != found['ours']).sum())}" for peer in row["peers_s"]]
            keep("nearest", case, {**row, "notes": [*notes, f"made ready in {prepared:.2f} s"]})


def _patchcore_model(backbone: str, layers: list[str]) -> Any:
    module = import_module("anomalib.models.image.patchcore.torch_model")
    return module.PatchcoreModel(backbone=backbone, layers=layers, pre_trained=False).eval()


def _batch(images: list[made.Image]) -> Tensor:
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - MEAN) / STD


def embedding(options: argparse.Namespace) -> None:
    """Time the authors' embedding beside their formulation of it, and beside the backbone it follows."""
    backbone = made.component("backbone", "wide_resnet50", weights="random")
    inputs = _batch(made.images(8, 224, test=True))
    maps = backbone(inputs)

    def ours() -> Tensor:
        return adaptive_embedding(maps, 3, 1, 1024, "bilinear")

    def unfold() -> Tensor:
        return unfold_embedding(maps, 3, 1, 1024)

    with torch.inference_mode():
        row = in_turn({"ours": ours, "unfold": unfold, "backbone": lambda: backbone(inputs)}, options.seconds)
        grown, theirs = peak_memory(ours), peak_memory(unfold)
        difference = float((ours() - unfold()).abs().max() / unfold().abs().max())
    share = row["ours_s"] / row["peers_s"]["backbone"]
    notes = [f"{share:.1%} of the backbone's time", f"memory {grown:.0f} MiB, unfold {theirs:.0f} MiB"]
    keep(
        "embedding",
        "wide_resnet50 at 224, 8 images, 1024 values",
        {**row, "notes": [*notes, f"largest relative difference {difference:.0e}"]},
    )


def _their_model() -> Any:
    """Return anomalib's model, with random weights that are kept in `WEIGHTS` for ours."""
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
    """Time predictions from 8 images to scores and maps, beside anomalib's model on normalised inputs."""
    path = made.CACHE / "detector-shared.safetensors"
    model = _their_model()
    if not path.is_file():
        _detector(256, "random").fit(made.images(160, 256)).save(path)
    images = made.images(8, 256, test=True)
    inputs = _batch(images)
    for precision in ("fp32", "bf16"):
        detector = pp.Detector.load(path, device="cpu", precision=precision)
        model.memory_bank = detector.bank.vectors
        rows, dims = detector.bank.vectors.shape
        case = f"wide_resnet50 {precision}, 8 images at 256, bank {rows:,} x {dims}{_kernels(options)}"
        if options.case not in case:
            continue
        found: dict[str, Any] = {}

        def ours() -> None:
            found["ours"] = detector.predict(images)  # noqa: B023

        def theirs() -> None:
            with torch.inference_mode():
                found["theirs"] = model(inputs)  # noqa: B023

        row = in_turn({"ours": ours, "anomalib": theirs}, options.seconds)
        scores = torch.tensor([each.score for each in found["ours"]])
        difference = float((found["theirs"].pred_score / scores - 1).abs().max())
        keep("predict", case, {**row, "notes": [f"largest relative difference of a score {difference:.0e}"]})


def fit(options: argparse.Namespace) -> None:
    """Time whole fits on 200 images at 224, 10 %, each in a process of its own, and their peak memory."""
    made.images(options.images, 224)
    _their_model()
    found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}

    def run(which: str) -> Callable[[], None]:
        command = [sys.executable, "-m", "benchmarks.peers", f"fit-{which}", "--images", str(options.images)]
        command += [] if options.budget is None else ["--budget", str(options.budget)]

        def start() -> None:
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[which].append(json.loads(done.stdout.splitlines()[-1]))

        return start

    row = in_turn({"ours": run("ours"), "anomalib": run("theirs")}, options.seconds, rounds=3)
    ours, theirs = ({key: float(np.median([run[key] for run in runs])) for key in runs[0]} for runs in found.values())
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(found["ours"], found["theirs"], strict=False)]
    row |= {"ours_s": round(ours["seconds"], 2), "peers_s": {"anomalib": round(theirs["seconds"], 1)}}
    row |= {"ratio_range": {"anomalib": [min(ratios), max(ratios)]}}
    notes = [
        f"anomalib: features {theirs['features']:.0f} s, selection extrapolated from its first {PROBE} picks",
        f"peak memory {ours['peak'] / 1024:.2f} GiB, anomalib's to there {theirs['peak'] / 1024:.2f} GiB",
        "ours with its calibration, "
        + (
            "each image judged by a bank of two thirds of them"
            if options.budget is None
            else "on a tenth of the images, held out"
        ),
    ]
    case = f"wide_resnet50, {options.images} images at 224, 10 %"
    case += "" if options.budget is None else f", memory budget {options.budget} MB"
    keep("fit", case, {**row, "notes": notes})


def fit_ours(options: argparse.Namespace) -> None:
    """Fit our detector, and print seconds and peak memory."""
    images, detector = made.images(options.images, 224), _detector(224, "greedy-coreset")
    start = time.perf_counter()
    detector.fit(images, memory_budget=None if options.budget is None else options.budget * 1_000_000)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": memory("VmHWM")}))


def fit_theirs(options: argparse.Namespace) -> None:
    """Fit anomalib's model as far as `PROBE` picks, and print seconds, extrapolated, and peak memory."""
    images, model = made.images(options.images, 224), _their_model().train()
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
    """Measure what was asked for, and put the tables into the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}, or table; all by default")
    parser.add_argument("--case", default="", help="only cases whose name has this in it, such as '80,000'")
    parser.add_argument("--seconds", type=float, default=60.0, help="start no further round of a case after this")
    parser.add_argument(
        "--whole-below",
        type=float,
        default=600.0,
        help="extrapolate anomalib's selection where it is expected to take longer than this",
    )
    parser.add_argument("--torch", action="store_true", help="leave the compiled kernels aside, in rows of their own")
    parser.add_argument("--images", type=int, default=200, help="how many to fit on")
    parser.add_argument("--budget", type=int, metavar="MB", help="fit ours within so much memory for what grows")
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
