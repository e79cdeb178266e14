"""The command line: what it leaves on disk, what it prints, and what it says when something is wrong."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.cli import main
from patchcore_plugin.cli.setup import Setup
from patchcore_plugin.kernels.native import description
from patchcore_plugin.results import METRICS
from patchcore_plugin.specs import ROLES

Install = Callable[..., Path]

SMALL = (
    *("--backbone", "efficientnet-lite0", "--device", "cpu"),
    *("--set", "preprocessing.size=64,64", "--set", "sampler.ratio=0.05"),
)
JUDGED = "scores of 10 good photos, each judged by a bank of the others"
BROKEN = "raise RuntimeError('no licence')"
MISSPELT = """
    import patchcore_plugin as pp

    @pp.hookimpl
    def patchcore_sampler():
        return []
"""
ALSO_ALL = """
    from dataclasses import dataclass
    import patchcore_plugin as pp

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    @pp.hookimpl
    def patchcore_samplers():
        return [pp.SamplerSpec(name="all", config=Config, create=print, summary="mine")]
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def patchcore(*arguments: object) -> Ended:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["patchcore", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return Ended(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def failure(*arguments: object) -> str:
    """Run a command that must fail with one line and nothing else, and return the line.

    What a fit announces about the work before it fails does not count.
    """
    ended = patchcore(*arguments)
    assert ended.code == 1, ended
    assert ended.out == ""
    said = re.sub(r"\A\d+ photos make .*\n", "", ended.err)
    assert said.startswith("patchcore: ")
    assert said.endswith("\n")
    assert said.count("\n") == 1
    return said.removeprefix("patchcore: ").removesuffix("\n")


def done(*arguments: object) -> Ended:
    ended = patchcore(*arguments)
    assert ended.code == 0, ended
    return ended


def loaded(*arguments: object) -> Any:
    """Run a command that must succeed, and return the JSON document that it prints."""
    return json.loads(done(*arguments, "--json").out)


def corrupt(path: Path) -> Path:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"not a photo" * 9)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def good(dataset: Path) -> Path:
    return dataset / "train" / "good"


@pytest.fixture(scope="module")
def fitted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    model = tmp_path_factory.mktemp("fitted") / "new" / "part.safetensors"
    return model, done("fit", dataset, "--out", model, *SMALL)


@pytest.fixture(scope="module")
def model(fitted: tuple[Path, Ended]) -> Path:
    return fitted[0]


# Usage

COMMANDS = [
    [],
    ["fit"],
    ["predict"],
    ["evaluate"],
    ["demo"],
    ["plugins"],
    ["plugins", "list"],
    ["plugins", "show"],
    ["plugins", "check"],
    ["recipes"],
    ["recipes", "list"],
    ["recipes", "show"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(command: list[str], option: str) -> None:
    ended = done(*command, option)
    assert "Usage: patchcore" in " ".join(ended.out.split())
    assert ended.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["fitt"],
        ["fit"],
        ["fit", "photos"],
        ["fit", "--out", "x"],
        ["fit", "photos", "--out", "x", "--seed", "one"],
        ["fit", "photos", "--out", "x", "--seed", "-1"],
        ["fit", "photos", "--out", "x", "--seed", str(2**63)],
        ["fit", "photos", "--out", "x", "--on-error", "ignore"],
        ["fit", "photos", "--out", "x", "--colour"],
        ["predict", "model", "--out", "x"],
        ["evaluate", "--out", "x"],
        ["plugins", "show"],
        ["plugins", "remove"],
        ["recipes", "show"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments: list[str]) -> None:
    ended = patchcore(*arguments)
    assert ended.code == 2
    assert "Usage: patchcore" in " ".join((ended.out + ended.err).split())


@pytest.mark.parametrize("arguments", [[], ["plugins"], ["recipes"]], ids=" ".join)
def test_without_a_command_there_is_help(arguments: list[str]) -> None:
    ended = patchcore(*arguments)
    assert ended.code in (0, 2)  # 0 from click before 8.2
    assert "Usage: patchcore" in " ".join((ended.out + ended.err).split())


# Failures are told in one line


def test_an_empty_folder(tmp_path: Path) -> None:
    empty, out = tmp_path / "empty", tmp_path / "m.safetensors"
    empty.mkdir()
    suffixes = ".bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp"
    message = f"{empty}: no photos in this folder ({suffixes})"
    assert failure("fit", empty, "--out", out) == message
    assert failure("predict", out, empty, "--out", tmp_path / "r") == message
    assert failure("evaluate", empty, "--out", tmp_path / "r") == (
        f"{empty}: in none of the layouts that can be read; "
        "MVTec AD, MPDD: CATEGORY/train/good, CATEGORY/test/KIND, CATEGORY/ground_truth/KIND; "
        "BTAD: CATEGORY/train/ok, CATEGORY/test/ok, CATEGORY/test/ko, CATEGORY/ground_truth/ko; "
        "VisA: split_csv/1cls.csv, CATEGORY/Data; "
        "KolektorSDD2: train/N.png, train/N_GT.png, test/N.png, test/N_GT.png; "
        "a .csv file: path, label, split"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_options_of_one_part_are_set_together_in_whatever_order() -> None:
    options = ("preprocessing.keep_aspect=true", "sampler.ratio=0.5", "preprocessing.crop=64,48", "sampler.ratio=0.2")
    recipe = Setup(recipe="patchcore", options=options).load()
    assert isinstance(recipe, pp.Recipe)
    assert recipe.preprocessing.keep_aspect
    assert recipe.preprocessing.crop == (64, 48)
    assert recipe.sampler.options["ratio"] == 0.2


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_an_unknown_component(command: str, dataset: Path, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        return failure(command, dataset, "--out", tmp_path / "out", *arguments)

    backbones, aggregators, samplers, scorers = (", ".join(pp.Host().names(role)) for role in ROLES)
    assert said("--backbone", "resnet19") == (
        f"unknown backbone 'resnet19'; did you mean 'resnet18'? available: {backbones}"
    )
    assert said("--sampler", "zzz") == f"unknown sampler 'zzz'; available: {samplers}"
    assert said("--aggregator", "x") == f"unknown aggregator 'x'; available: {aggregators}"
    assert said("--scorer", "x") == f"unknown scorer 'x'; available: {scorers}"
    assert said("--recipe", "x") == (
        f"unknown recipe 'x'; available: {', '.join(pp.Recipe.names())}, or the path of a .toml file"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "sampler.ratoi=0.1",
            "sampler 'greedy-coreset': unknown option 'ratoi'; did you mean 'ratio'? "
            "its options are: ratio, count, radius, projection_dim, seed",
        ),
        ("sampler.ratio=2", "sampler 'greedy-coreset': option 'ratio' must be less than or equal to 1, got 2"),
        ("sampler.ratio=none", "sampler 'greedy-coreset': option 'ratio' must be a valid number, got None"),
        ("aggregator.patch_size=4", "aggregator 'average-pool': patch_size must be odd, got 4"),
        (
            "smapler.ratio=0.1",
            "unknown part 'smapler' of a recipe; it has: backbone, aggregator, sampler, scorer, preprocessing, map",
        ),
        ("map.sigma=-1", "map: option 'sigma' must be greater than or equal to 0, got -1"),
        ("sampler.name=5", "sampler: its name must be text, got 5"),
        ("ratio=0.1", "--set ratio=0.1: expected PART.OPTION=VALUE, such as sampler.ratio=0.01"),
        ("sampler.ratio", "--set sampler.ratio: expected PART.OPTION=VALUE, such as sampler.ratio=0.01"),
        (
            "backbone.layers=stage9,",
            "backbone efficientnet-lite0: layers has no 'stage9' (did you mean 'stage7'?); "
            "choose from stage1, stage2, stage3, stage4, stage5, stage6, stage7",
        ),
    ],
)
def test_a_misspelt_option(option: str, message: str, good: Path, tmp_path: Path) -> None:
    said = failure("fit", good, "--out", tmp_path / "m", "--backbone", "efficientnet-lite0", "--set", option)
    assert said == message
    assert list(tmp_path.iterdir()) == []


def test_missing_weights(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert failure("fit", good, "--out", tmp_path / "m", "--device", "cpu") == (
        "backbone wide_resnet50: the ImageNet weights are not on this computer and cannot be downloaded (no network): "
        "connect to the network once so that torchvision downloads them, "
        "or give a weights file with backbone.weights=PATH, "
        "or choose a backbone whose weights come with its package, "
        "such as efficientnet-lite0 from patchcore-efficientnet-lite"
    )
    missing = tmp_path / "none.pth"
    weights = failure("fit", good, "--out", tmp_path / "m", "--set", f"backbone.weights={missing}")
    assert weights == (
        f"backbone wide_resnet50: weights: no file {missing}; "
        "give imagenet, random, or the path of a .pth or .safetensors file"
    )


def test_a_model_file_that_is_missing_or_damaged(good: Path, model: Path, tmp_path: Path) -> None:
    missing, cut = tmp_path / "none.safetensors", tmp_path / "cut.safetensors"
    said = failure("predict", missing, good, "--out", tmp_path / "r")
    assert said == f"{missing}: no such model file; make one with: patchcore fit PHOTOS --out {missing}"
    cut.write_bytes(model.read_bytes()[:-1])
    said = failure("predict", cut, good, "--out", tmp_path / "r")
    assert re.fullmatch(rf"{re.escape(str(cut))}: damaged \(.+\); copy it again from its source, or fit again", said)
    assert not (tmp_path / "r").exists()


def test_a_model_whose_plugin_is_not_installed(good: Path, model: Path, tmp_path: Path) -> None:
    said = failure("--no-plugins", "predict", model, good, "--out", tmp_path / "r")
    assert said == (
        f"{model}: needs backbone 'efficientnet-lite0', which is not available here; "
        "pip install --upgrade patchcore-efficientnet-lite (details: patchcore plugins list)"
    )


def test_an_output_that_cannot_be_written(good: Path, model: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    advice = "check the path, its permissions and the free space"
    said = failure("fit", good, "--out", file / "sub" / "m.safetensors", *SMALL)
    assert said == f"{file / 'sub'}: {os.strerror(errno.ENOTDIR)}; {advice}"
    said = failure("fit", good, "--out", file / "m.safetensors", *SMALL)
    assert said == f"{file}: {os.strerror(errno.EEXIST)}; {advice}"
    said = failure("fit", good, "--out", folder, *SMALL)
    assert said == f"{folder}: is a folder; give --out a file in it, such as {folder / 'model.safetensors'}"
    said = failure("predict", model, good, "--out", file)
    assert said == f"{file}: {os.strerror(errno.EEXIST)}; {advice}"
    assert file.read_text() == "mine"


def test_a_folder_without_permission_is_told_before_the_work(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    said = failure("fit", good, "--out", tmp_path / "m.safetensors", *SMALL)
    assert said == f"{tmp_path / 'm.safetensors'}: its folder cannot be written to; choose another --out"


def test_photos_that_may_not_be_read(good: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a failure like any other, and not wrong usage."""
    closed = tmp_path / "photo.png"
    closed.write_bytes((good / "000.png").read_bytes())
    access, read_bytes = os.access, Path.read_bytes

    def closed_to_all(path: Path) -> bytes:
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read_bytes(path)

    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(closed) and access(path, mode))
    monkeypatch.setattr(Path, "read_bytes", closed_to_all)
    message = (
        f"{closed}: cannot be opened ({os.strerror(errno.EACCES)}); check its permissions, or pass --on-error skip"
    )
    assert failure("fit", good, closed, "--out", tmp_path / "m", *SMALL) == message
    arguments = [model, closed, "--out", tmp_path / "r", "--device", "cpu", "--on-error", "stop"]
    assert failure("predict", *arguments) == message


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", "meta"])
def test_a_device_that_is_not_there(device: str, good: Path, model: Path, tmp_path: Path) -> None:
    if torch.cuda.device_count() > (7 if device[-1] == "7" else 0) and device.startswith("cuda"):
        pytest.skip("it is there")
    pattern = rf"device '{device}' cannot be used \(.+\); use --device cpu or auto"
    options = [*SMALL, "--device", device]  # the last one counts
    assert re.fullmatch(pattern, failure("fit", good, "--out", tmp_path / "m", *options))
    assert re.fullmatch(pattern, failure("predict", model, good, "--out", tmp_path / "r", "--device", device))


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert failure("fit", nowhere, "--out", tmp_path / "m") == f"{nowhere}: no such file or folder; check the path"
    assert failure("evaluate", nowhere, "--out", tmp_path / "r") == f"{nowhere}: no such file or folder; check the path"


# fit


def test_fit_says_what_it_did(fitted: tuple[Path, Ended], dataset: Path) -> None:
    model, ended = fitted
    assert model.is_file()
    assert re.fullmatch(
        rf"""model      {re.escape(str(model))}
photos     10, in \d+\.\d s
bank       32 of 640 patches, covering radius \d+\.\d{{4}}
smaller    covering radius by bank rows, for --set sampler.radius=\.\.\.(  \d+: \d+\.\d{{3}})+
threshold  \d+\.\d{{4}} \(at most 9\.09% false alarms; {JUDGED} \(5 folds\)\)
next       patchcore predict {re.escape(str(model))} PHOTOS --out results
""",
        ended.out,
    )
    assert "reading photos: 10/10\n" in ended.err
    assert re.search(
        r"^10 photos make [\d,]+ patches of [\d,]+ values: at most [\d.e-]+ GB of memory; ", ended.err, re.M
    )
    assert "patchcore:" not in ended.err
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_fit_as_json_with_an_unreadable_photo_skipped(good: Path, tmp_path: Path) -> None:
    bad, out = corrupt(tmp_path / "bad.png"), tmp_path / "m.safetensors"
    ended = patchcore("fit", bad, good, "--out", out, "--on-error", "skip", "--json", *SMALL)
    assert ended.code == 1
    summary = json.loads(ended.out)
    assert list(summary) == [
        "model",
        "photos",
        "skipped",
        "bank_rows",
        "patches_seen",
        "covering_radius",
        "radius_is_exact",
        "radius_curve",
        "threshold",
        "threshold_source",
        "map_threshold",
        "false_alarm_rate",
        "seconds",
    ]
    (reason,) = summary["skipped"]
    assert reason.startswith(f"{bad}: not a readable image (")
    assert (summary["model"], summary["photos"]) == (str(out), 10)
    assert (summary["bank_rows"], summary["patches_seen"]) == (32, 640)
    assert ended.err.endswith(f"patchcore: {reason}\npatchcore: 1 of 11 photos were skipped; all others are done\n")
    detector = pp.Detector.load(out, device="cpu")
    assert detector.threshold == summary["threshold"]
    assert detector.covering_radius == summary["covering_radius"]


def test_fit_stops_at_an_unreadable_photo(good: Path, tmp_path: Path) -> None:
    bad, out = corrupt(tmp_path / "bad.png"), tmp_path / "m.safetensors"
    for position in ([bad, good], [good, bad]):
        said = failure("fit", *position, "--out", out, *SMALL)
        assert said.startswith(f"{bad}: not a readable image (")
        assert said.endswith("); replace or remove it, or pass --on-error skip")
    assert not out.exists()


def test_fit_of_nothing_but_unreadable_photos(tmp_path: Path) -> None:
    bad = corrupt(tmp_path / "bad.png")
    ended = patchcore("fit", bad, "--out", tmp_path / "m", "--on-error", "skip", *SMALL)
    assert ended.code == 1
    assert ended.err.endswith("patchcore: no photo to fit on; give at least one readable photo of a good part\n")
    assert not (tmp_path / "m").exists()


def test_one_seed_gives_one_model(good: Path, tmp_path: Path) -> None:
    photos = sorted(good.iterdir())[:3]
    banks = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done("fit", *photos, "--out", tmp_path / name, "--seed", seed, *SMALL)
        banks.append(pp.Detector.load(tmp_path / name, device="cpu").bank.origin)
    assert torch.equal(banks[0], banks[1])
    assert not torch.equal(banks[0], banks[2])


def test_options_reach_the_model(good: Path, tmp_path: Path) -> None:
    own, out = tmp_path / "own.toml", tmp_path / "m"
    shown = done("recipes", "show", "patchcore-1").out
    own.write_text(shown, encoding="utf-8")
    photos = sorted(good.iterdir())[:2]
    choices = ["--sampler", "random", "--set", "sampler.count=7", "--set", "map.sigma=1"]
    layers = ["--backbone", "efficientnet-lite0", "--set", "backbone.layers=stage3,", "--device", "cpu"]
    done("fit", *photos, "--out", out, "--recipe", own, "--set", "preprocessing.size=64,48", *choices, *layers)
    detector = pp.Detector.load(out, device="cpu")
    assert detector.recipe.name == "own"
    assert detector.recipe.sampler.name == "random"
    assert detector.recipe.preprocessing.size == (64, 48)
    assert detector.recipe.map.sigma == 1
    assert detector.bank.vectors.shape == (7, 40)


# predict


@pytest.fixture(scope="module")
def judged(model: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], Ended]:
    """A run over good and defective photos, one of them of another size with a name that needs care."""
    folder = tmp_path_factory.mktemp("judged")
    odd = folder / "ä photo [1].png"
    image = cv2.imread(str(dataset / "test" / "blot" / "001.png"))
    assert image is not None
    odd.write_bytes(cv2.imencode(".png", cv2.resize(image, (61, 130)))[1].tobytes())
    photos = [dataset / "test" / "good" / "000.png", dataset / "test" / "blot" / "000.png", odd]
    ended = done("predict", model, *photos, "--out", folder / "results", "--device", "cpu")
    return folder / "results", photos, ended


def test_predict_writes_a_line_for_each_photo(judged: tuple[Path, list[Path], Ended], model: Path, good: Path) -> None:
    out, photos, _ = judged
    records = lines(out / "results.jsonl")
    assert [record["path"] for record in records] == [str(photo) for photo in photos]
    threshold = pp.Detector.load(model, device="cpu").threshold
    assert [record["p_value"] for record in records][1:2] == [1 / 11]
    for record in records:
        assert list(record) == [
            *("path", "width", "height", "score", "p_value", "threshold", "is_anomalous"),
            *("map", "nearest", "regions", "overlay", "why", "scale"),
        ]
        assert record["threshold"] == threshold
        assert record["is_anomalous"] == (record["score"] > record["threshold"])
        assert list(record["nearest"]) == ["photo", "x", "y", "peak_x", "peak_y", "distance"]
        assert Path(record["nearest"]["photo"]) in good.iterdir()
        assert 0 <= record["nearest"]["x"] < 96
        assert 0 <= record["nearest"]["y"] < 72
        assert record["scale"] == records[0]["scale"]
    assert records[1]["score"] > records[0]["score"]
    assert records[1]["is_anomalous"] is True


def test_predict_draws_in_the_photos_own_size(judged: tuple[Path, list[Path], Ended]) -> None:
    out, photos, _ = judged
    records = lines(out / "results.jsonl")
    for photo, record in zip(photos, records, strict=True):
        original = cv2.imdecode(np.frombuffer(photo.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert original is not None
        for key in ("map", "overlay"):
            drawn = cv2.imdecode(np.frombuffer((out / record[key]).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
            assert drawn is not None
            assert drawn.shape == original.shape
        assert 0 <= record["nearest"]["peak_x"] < original.shape[1]
        assert 0 <= record["nearest"]["peak_y"] < original.shape[0]
    assert len(list((out / "heat_maps").iterdir())) == len(list((out / "overlays").iterdir())) == 3


def test_predict_finds_the_place_of_a_defect(judged: tuple[Path, list[Path], Ended], dataset: Path) -> None:
    out, _, _ = judged
    nearest = lines(out / "results.jsonl")[1]["nearest"]
    mask = cv2.imread(str(dataset / "ground_truth" / "blot" / "000_mask.png"), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    rows, columns = np.nonzero(mask)
    distance = np.hypot(rows - nearest["peak_y"], columns - nearest["peak_x"]).min()
    assert distance <= 14  # a patch is 12 pixels wide and 9 high


def test_predict_prints_a_table(judged: tuple[Path, list[Path], Ended]) -> None:
    out, photos, ended = judged
    assert re.search(rf"^defect +\d+\.\d{{3}} +0\.091 +{re.escape(str(photos[1]))} *$", ended.out, re.MULTILINE)
    assert re.search(rf"^\w+ +\d+\.\d{{3}} +[01]\.\d{{3}} +{re.escape(str(photos[2]))} *$", ended.out, re.MULTILINE)
    assert " (at most 9.09% false alarms; scores of 10 good photos, " in ended.out
    assert f"written    {out / 'results.jsonl'}, {out / 'heat_maps'}, {out / 'overlays'}, {out / 'why'}\n" in ended.out
    assert ended.err == "judging photos: 3/3\n"


def test_predict_as_json_with_an_unreadable_photo(model: Path, dataset: Path, tmp_path: Path) -> None:
    bad, out = corrupt(tmp_path / "bad.png"), tmp_path / "results"
    photos = [dataset / "test" / "good" / "000.png", dataset / "test" / "good" / "001.png"]
    command = ["predict", model, photos[0], bad, photos[1], "--out", out, "--device", "cpu"]
    ended = patchcore(*command, "--json")
    assert ended.code == 1
    content = json.loads(ended.out)
    assert list(content) == ["results", "failed"]
    assert [record["path"] for record in content["results"]] == [str(photo) for photo in photos]
    assert lines(out / "results.jsonl") == content["results"]
    (reason,) = content["failed"]
    assert reason.startswith(f"{bad}: not a readable image (")
    assert ended.err.endswith(f"patchcore: {reason}\npatchcore: 1 of 3 photos were skipped; all others are done\n")
    assert len(list((out / "overlays").iterdir())) == 2

    assert patchcore(*command).code == 1
    stopped = patchcore(*command, "--on-error", "stop")
    assert stopped.code == 1
    assert stopped.out == ""
    assert stopped.err == f"patchcore: {reason}\n"


def test_predict_gives_the_same_scores_as_the_api(judged: tuple[Path, list[Path], Ended], model: Path) -> None:
    out, photos, _ = judged
    predictions = pp.Detector.load(model, device="cpu").predict(photos)
    records = lines(out / "results.jsonl")
    assert [record["score"] for record in records] == [prediction.score for prediction in predictions]


# evaluate


def test_evaluate(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    content = loaded("evaluate", dataset, "--out", out, *SMALL)
    assert content == json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert list(content)[:2] == ["categories", "mean"]
    assert list(content["categories"]) == ["washer"]
    figures = content["categories"]["washer"]
    keys = [
        *("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "aupro", "false_alarm_rate", "detection_rate"),
        *("fit_seconds", "predict_seconds_per_image", "bank_rows", "covering_radius"),
    ]
    assert list(figures) == list(content["mean"]) == keys == list(METRICS)
    assert content["mean"] == figures
    assert figures["image_auroc"] == 1.0
    assert figures["pixel_auroc"] > 0.9
    assert 0 < figures["aupro"] <= 1
    at_threshold = content["at_threshold"]["washer"]
    assert (at_threshold["calibration_photos"], at_threshold["promised_false_alarm_rate"]) == (10, 1 / 11)
    records = lines(out / "washer" / "results.jsonl")
    called = [record["is_anomalous"] for record in records if record["kind"] == "blot"]
    assert at_threshold["kinds"] == {
        "blot": {"photos": 3, "detected": sum(called), "detection_rate": figures["detection_rate"]}
    }
    assert (figures["detection_rate"], figures["false_alarm_rate"]) == (
        sum(called) / 3,
        at_threshold["false_alarms"] / 3,
    )
    assert figures["bank_rows"] == 32
    assert content["failed"] == []
    assert content["recipe"]["backbone"]["name"] == "efficientnet-lite0"
    assert content["recipe"]["sampler"]["ratio"] == 0.05
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("The most suspicious patch of blot/") >= sum(called) > 0
    assert content["recipe"]["backbone"]["name"] in page.partition("Model card")[2]
    assert len(records) == 6


def test_evaluate_with_a_chosen_category_and_an_unreadable_photo(dataset: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "evaluation"
    for name in ("nut", "washer"):
        for part in ("train/good/000.png", "train/good/001.png", "test/good/000.png", "test/blot/000.png"):
            (root / name / part).parent.mkdir(parents=True, exist_ok=True)
            (root / name / part).write_bytes((dataset / part).read_bytes())
    bad = corrupt(root / "nut" / "test" / "blot" / "001.png")
    left_out = corrupt(root / "nut" / "train" / "good" / "002.png")
    said = failure("evaluate", root, "--out", out, "--category", "bolt", *SMALL)
    assert said == "no category 'bolt'; the dataset has: nut, washer"
    ended = patchcore("evaluate", root, "--out", out, "--category", "nut", *SMALL)
    assert ended.code == 1
    last = ended.err.splitlines()[-3:]
    assert last[0].startswith(f"patchcore: {left_out}: not a readable image (")
    assert last[1].startswith(f"patchcore: {bad}: not a readable image (")
    assert last[2] == "patchcore: some photos or masks could not be used; all others are done"
    assert re.search(r"^nut +\d\.\d{4} ", ended.out, re.MULTILINE)
    assert re.search(r"^category .* false alarms +found +fit s ", ended.out, re.MULTILINE)
    content = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert list(content["categories"]) == ["nut"]
    assert [failed["path"] for failed in content["failed"]] == [str(left_out), str(bad)]
    assert (out / "report.html").is_file()


# plugins


def test_plugins_list() -> None:
    rows = loaded("plugins", "list")
    assert all(list(row) == ["role", "name", "distribution", "version", "plugin", "status", "summary"] for row in rows)
    assert {row["status"] for row in rows} == {"loaded"}
    assert [row["role"] for row in rows] == sorted(
        (row["role"] for row in rows), key=["backbone", "aggregator", "sampler", "scorer"].index
    )
    lite = next(row for row in rows if row["name"] == "efficientnet-lite0")
    assert (lite["distribution"], lite["plugin"]) == ("patchcore-efficientnet-lite", "efficientnet-lite")
    table = done("plugins", "list").out
    assert re.search(r"^backbone +efficientnet-lite0 +efficientnet-lite +patchcore-efficientnet-lite ", table, re.M)
    assert re.search(r"^sampler +greedy-coreset +greedy-coreset +patchcore-plugin ", table, re.MULTILINE)


def test_plugins_list_of_one_role() -> None:
    assert [row["name"] for row in loaded("plugins", "list", "--role", "aggregator")] == ["average-pool", "global-pool"]
    said = failure("plugins", "list", "--role", "x")
    assert said == "unknown role 'x'; the roles are: backbone, aggregator, sampler, scorer"


def test_broken_plugins_are_listed_and_fit_works(distribution: Install, good: Path, tmp_path: Path) -> None:
    distribution("acme", BROKEN, version="1.5")
    distribution("zenith", MISSPELT, version="2.5", entry_point="zen")
    misspelt = (
        "unknown hook 'patchcore_sampler'; did you mean 'patchcore_samplers'? the hooks are: "
        "patchcore_backbones, patchcore_aggregators, patchcore_samplers, patchcore_scorers"
    )
    rows = [row for row in loaded("plugins", "list") if row["status"] != "loaded"]
    expected = [("acme", "acme", "1.5", "RuntimeError: no licence"), ("zen", "zenith", "2.5", misspelt)]
    assert rows == [
        {
            "role": "-",
            "name": "-",
            "distribution": name,
            "version": version,
            "plugin": entry_point,
            "status": "failed",
            "summary": reason,
        }
        for entry_point, name, version, reason in expected
    ]
    table = done("plugins", "list").out
    assert re.search(r"^- +- +acme +acme +1\.5 +failed +RuntimeError: no licence *$", table, re.MULTILINE)
    assert re.search(rf"^- +- +zen +zenith +2\.5 +failed +{re.escape(misspelt)} *$", table, re.MULTILINE)

    ended = patchcore("plugins", "check")
    assert ended.code == 1
    assert re.match(r"\d+ plugins loaded, \d+ components\n\d+ checks passed, 0 failed, ", ended.out)
    assert ended.err == (
        f"patchcore: acme (acme 1.5): RuntimeError: no licence\npatchcore: zen (zenith 2.5): {misspelt}\n"
    )

    photos = sorted(good.iterdir())[:2]
    done("fit", *photos, "--out", tmp_path / "m", *SMALL)
    said = failure("fit", *photos, "--out", tmp_path / "n", *SMALL, "--scorer", "acme-scorer")
    assert said == (
        f"unknown scorer 'acme-scorer'; available: {', '.join(pp.Host().names('scorer'))}; not loaded: "
        f"acme (acme 1.5): RuntimeError: no licence; zen (zenith 2.5): {misspelt}"
    )


def test_blocking(distribution: Install) -> None:
    distribution("acme", BROKEN)
    rows = loaded("--block", "acme", "--block", "simple-samplers", "plugins", "list")
    blocked = {row["plugin"]: row["summary"] for row in rows if row["status"] == "blocked"}
    assert blocked == {"acme": "blocked by name", "simple-samplers": "blocked by name"}
    assert {row["status"] for row in rows} == {"loaded", "blocked"}
    assert "random" not in {row["name"] for row in rows}
    assert done("--block", "acme", "plugins", "check").err == ""


def test_no_plugins(distribution: Install) -> None:
    distribution("acme", BROKEN)
    rows = loaded("--no-plugins", "plugins", "list")
    assert {row["distribution"] for row in rows} == {"patchcore-plugin"}
    assert done("--no-plugins", "plugins", "check").err == ""


def test_plugins_check() -> None:
    content = loaded("plugins", "check")
    assert content["problems"] == []
    assert any(each.startswith("efficientnet-lite (patchcore-efficientnet-lite ") for each in content["loaded"])


def test_a_clash_is_found_by_check_and_told_when_asked_for(distribution: Install) -> None:
    distribution("acme", ALSO_ALL)
    version = pp.Host().component("scorer", "knn").plugin.version
    message = (
        f"sampler 'all' is claimed by simple-samplers (patchcore-plugin {version}) and acme (acme 1.0); "
        "block one of them, for example with --block acme"
    )
    ended = patchcore("plugins", "check", "--json")
    assert (ended.code, ended.err) == (1, f"patchcore: {message}\n")
    assert json.loads(ended.out)["problems"] == [message]
    assert failure("plugins", "show", "all") == message
    assert done("--block", "acme", "plugins", "show", "all").out.endswith("no options\n")


def test_plugins_show_says_which_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("knn", "greedy-coreset"):
        assert f"\nkernels on a CPU: {description()}\n" in done("plugins", "show", name).out
    assert "kernels" not in done("plugins", "show", "average-pool").out
    monkeypatch.setenv("PATCHCORE_COMPILED", "0")
    assert "\nkernels on a CPU: torch\n" in done("plugins", "show", "knn").out
    assert loaded("plugins", "show", "knn")[0]["kernels"] == "torch"


def test_plugins_show() -> None:
    version = pp.Host().component("scorer", "knn").plugin.version
    shown = done("plugins", "show", "greedy-coreset").out
    assert shown.startswith(
        "sampler greedy-coreset: greedy minimax coreset, exact (the paper's)\n"
        f"from plugin greedy-coreset (patchcore-plugin {version})\n"
    )
    meaning = re.escape("Fraction of the patches that stay; the paper's are 0.25, 0.1 and 0.01.")
    assert re.search(rf"^sampler\.ratio +float, > 0, <= 1 +0\.1 +{meaning} *$", shown, re.MULTILINE)
    (content,) = loaded("plugins", "show", "greedy-coreset")
    assert list(content) == ["role", "name", "summary", "plugin", "distribution", "version", "kernels", "options"]
    assert content["options"][0] == {
        "name": "ratio",
        "type": "float, > 0, <= 1",
        "default": "0.1",
        "meaning": "Fraction of the patches that stay; the paper's are 0.25, 0.1 and 0.01.",
    }
    said = failure("plugins", "show", "greedy")
    assert said.startswith("no component is called 'greedy'; there are: all, average-pool, ")


def test_brackets_in_a_table_are_shown_as_they_are() -> None:
    shown = done("plugins", "show", "resnet18").out
    assert re.search(r"^backbone\.layers +tuple\[str, \.\.\.\] +\('layer2', 'layer3'\) ", shown, re.MULTILINE)


# recipes


def test_recipes_list() -> None:
    names = pp.Recipe.names()
    assert [each["name"] for each in loaded("recipes", "list")] == names
    table = done("recipes", "list").out
    for name in names:
        assert re.search(rf"^{name} +{re.escape(pp.load_recipe(name).summary)} *$", table, re.MULTILINE)


@pytest.mark.parametrize("name", pp.Recipe.names())
def test_what_is_shown_of_a_recipe_is_that_recipe(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.toml"
    file.write_text(done("recipes", "show", name).out, encoding="utf-8")
    shipped, again = (pp.load_recipe(each).resolved(pp.Host(), seed=0) for each in (name, str(file)))
    assert {**again.to_dict(), "summary": ""} == {**shipped.to_dict(), "summary": ""}
    assert loaded("recipes", "show", name) == json.loads(json.dumps(shipped.to_dict()))


def test_recipes_show_says_that_a_border_is_not_inspected() -> None:
    warning = (
        "# Only the central 224 x 224 pixels of the resized photo are inspected: "
        "a defect in the border outside is NOT found.\n"
    )
    summary = pp.Recipe.load("patchcore-paper").summary
    assert "border" in summary
    assert "NOT inspected" in summary
    shown = done("recipes", "show", "patchcore-paper").out
    assert shown.startswith(f"# patchcore-paper: {summary}\n{warning}")
    assert "\n[aggregator]\n" in shown
    assert "\nembed_dim = 1024\n" in shown
    whole = done("recipes", "show", "patchcore").out
    assert "NOT" not in whole
    assert "\n# crop is not set\n" in whole
    assert "\n# embed_dim is not set\n" in whole


def test_recipes_show_of_an_unknown_recipe() -> None:
    assert failure("recipes", "show", "patchcor").startswith("unknown recipe 'patchcor'; did you mean 'patchcore'? ")


# Processes

KILLED = """
    import os, signal, sys
    from pathlib import Path
    import patchcore_plugin.model_file as model_file
    from patchcore_plugin.cli import main
    from patchcore_plugin.cli.console import Reporter

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def half_a_file(tensors, path, metadata):
        whole(tensors, path, metadata=metadata)
        Path(path).write_bytes(Path(path).read_bytes()[:2000])
        die()

    when = sys.argv.pop(1)
    if when == "while fitting":
        Reporter.__call__ = lambda self, stage, done, total: die()
    elif when == "before renaming":
        Path.replace = os.replace = lambda *arguments: die()
    else:
        whole, model_file.save_file = model_file.save_file, half_a_file
    main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system does not kill in that way")
@pytest.mark.parametrize("when", ["while fitting", "while writing", "before renaming"])
def test_a_killed_fit_leaves_the_old_model_whole(when: str, good: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.safetensors"
    before = model.read_bytes()
    out.write_bytes(before)
    photos = sorted(good.iterdir())[:2]
    arguments = ["fit", *photos, "--out", out, *SMALL]
    command = [sys.executable, "-c", textwrap.dedent(KILLED), when, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert out.read_bytes() == before
    assert pp.Detector.load(out, device="cpu").threshold is not None
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == [out]

    done(*arguments)
    assert out.read_bytes() != before


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_has_enough_is_told_nothing(unbuffered: str) -> None:
    command = [sys.executable, "-c", "from patchcore_plugin.cli import main; main()", "recipes", "show", "patchcore"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (1, b"")
