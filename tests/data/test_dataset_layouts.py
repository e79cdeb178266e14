"""Each data set by its layout on disk: what is read from the right one, and what is said of a wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchcore_plugin import Detector
from patchcore_plugin.data import images as images
from patchcore_plugin.data.datasets import Category, TestImage, load_categories, load_category, training_images
from tests.commands import done
from tests.data.dataset_files import draw, good, refused, touch, train_on, write

# MPDD, and VisA as it is converted: the layout of MVTec AD


@pytest.mark.parametrize("mask", ["000_mask.png", "000.png"])
def test_mpdd_and_converted_visa(tmp_path: Path, mask: str) -> None:
    root = tmp_path / "bracket_black"
    touch(root, "train/good/000.png", "test/good/000.png", "test/hole/000.png", f"ground_truth/hole/{mask}")
    assert load_categories(tmp_path) == [
        Category(
            "bracket_black",
            (root / "train/good/000.png",),
            (
                good(root / "test/good/000.png"),
                TestImage(root / "test/hole/000.png", "hole", True, root / "ground_truth/hole" / mask),
            ),
        )
    ]


# BTAD


@pytest.fixture
def btad(tmp_path: Path) -> Path:
    root = tmp_path / "BTech_Dataset_transformed"
    touch(root, "01/train/ok/0010.bmp", "01/train/ok/0009.bmp", "01/test/ok/0001.bmp")
    touch(root, "01/test/ko/0000.bmp", "01/test/ko/0002.bmp", "01/ground_truth/ko/0000.png")
    touch(root, "02/train/ok/0000.png", "02/test/ok/0000.png", "02/test/ko/0000.png", "02/ground_truth/ko/0000.png")
    return root


def test_btad(btad: Path) -> None:
    first, second = load_categories(btad)
    assert (first.name, second.name) == ("01", "02")
    assert first.train == (btad / "01/train/ok/0009.bmp", btad / "01/train/ok/0010.bmp")
    assert first.test == (
        good(btad / "01/test/ok/0001.bmp"),
        TestImage(btad / "01/test/ko/0000.bmp", "ko", True, btad / "01/ground_truth/ko/0000.png"),
        TestImage(btad / "01/test/ko/0002.bmp", "ko", True, None),
    )
    assert load_categories(btad / "01") == [first]
    assert training_images([btad / "01"]) == list(first.train)


def test_btad_incomplete(btad: Path) -> None:
    for image in (btad / "01/train/ok").iterdir():
        image.unlink()
    (btad / "01/train/ok").rmdir()
    assert refused(btad / "01") == (
        f"{btad / '01'}: looks like a category of BTAD, but train/ok is missing; put the good images there"
    )
    touch(btad, "03/train/ok/1.bmp")
    assert refused(btad / "03") == (
        f"{btad / '03'}: looks like a category of BTAD, but test is missing; "
        "put good images into test/ok and others into test/KIND-OF-DEFECT"
    )


def test_categories_of_several_data_sets_in_one_folder(btad: Path) -> None:
    touch(btad, "bottle/train/good/1.png", "bottle/test/good/1.png")
    assert [category.name for category in load_categories(btad)] == ["01", "02", "bottle"]


# VisA


VISA = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0836.JPG,
candle,train,normal,candle/Data/Images/Normal/0091.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
candle,test,normal,candle/Data/Images/Normal/0016.JPG,
pcb1,train,normal,pcb1/Data/Images/Normal/0001.JPG,
pcb1,test,normal,pcb1/Data/Images/Normal/0000.JPG,
pcb1,test,anomaly,pcb1/Data/Images/Anomaly/000.JPG,pcb1/Data/Masks/Anomaly/000.png
"""


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    root = tmp_path / "VisA"
    write(root / "split_csv/1cls.csv", VISA)
    for line in VISA.splitlines()[1:]:
        touch(root, *filter(None, line.split(",")[3:]))
    # In no split, and no image of the data set.
    touch(root, "candle/Data/Images/Normal/9999.JPG", "split_csv/2cls_fewshot.csv", "candle/image_anno.csv")
    return root


def test_visa(visa: Path) -> None:
    candle, pcb1 = load_categories(visa)
    data = visa / "candle/Data"
    assert candle == Category(
        "candle",
        (data / "Images/Normal/0091.JPG", data / "Images/Normal/0836.JPG"),
        (
            good(data / "Images/Normal/0016.JPG"),
            TestImage(data / "Images/Anomaly/000.JPG", "defect", True, data / "Masks/Anomaly/000.png"),
        ),
    )
    assert pcb1.name == "pcb1"


def test_one_category_of_visa(visa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [category.name for category in load_categories(visa / "pcb1")] == ["pcb1"]
    assert training_images([visa / "pcb1"]) == [visa / "pcb1/Data/Images/Normal/0001.JPG"]
    monkeypatch.chdir(visa / "pcb1")
    assert load_category(Path()).name == "pcb1"
    assert refused(visa, train_on) == (
        f"{visa}: holds categories, not images of one product; choose one, such as {visa / 'candle'}: candle, pcb1"
    )


def test_visa_of_which_one_category_is_unpacked(visa: Path) -> None:
    (visa / "pcb1").rename(visa.parent / "elsewhere")
    assert [category.name for category in load_categories(visa)] == ["candle"]
    (visa / "candle").rename(visa.parent / "gone")
    assert refused(visa) == f"{visa}: looks like VisA, but has none of the folders in split_csv/1cls.csv: candle, pcb1"


def test_visa_without_its_split(visa: Path) -> None:
    (visa / "split_csv/1cls.csv").unlink()
    todo = "copy it from the data set, or fit on all good images of a category:"
    assert refused(visa) == (
        f"{visa}: looks like VisA, but split_csv/1cls.csv is missing; {todo} {visa / 'CATEGORY/Data/Images/Normal'}"
    )
    candle = visa / "candle"
    for read in (load_categories, train_on):
        assert refused(candle, read) == (
            f"{candle}: looks like a category of VisA, but {visa / 'split_csv/1cls.csv'} is missing; "
            f"{todo} {candle / 'Data/Images/Normal'}"
        )
    assert len(training_images([candle / "Data/Images/Normal"])) == 4


def test_visa_with_a_wrong_split(visa: Path) -> None:
    split = visa / "split_csv/1cls.csv"
    touch(visa, "pcb9/Data/Images/Normal/1.JPG")
    assert refused(visa / "pcb9") == f"{visa / 'pcb9'}: {split} has no such object; it has: candle, pcb1"
    image = visa / "candle/Data/Images/Normal/0016.JPG"
    image.unlink()
    assert refused(visa) == f"{split}, line 5: no such file: {image}"
    write(split, "image,label,mask\n")
    assert refused(visa) == f"{split}: no column object, split; its first line has: image, label, mask"


# KolektorSDD2


@pytest.fixture
def kolektor(tmp_path: Path) -> Path:
    root = tmp_path / "KSDD2"
    for name, blot in (("train/9999", 0), ("train/10000", 0), ("train/10001", 255), ("test/20000", 255)):
        draw(root / f"{name}.png", ground=90)
        draw(root / f"{name}_GT.png", blot=blot)
    draw(root / "test/20001.png", ground=90)
    draw(root / "test/20001_GT.png")
    # As in the archive: the mask of this one does not end like a mask.
    touch(root, "train/10301 (copy).png", "train/10301_GT (copy).png")
    return root


def test_kolektor(kolektor: Path) -> None:
    train = (kolektor / "train/9999.png", kolektor / "train/10000.png")
    assert load_categories(kolektor) == [
        Category(
            "KSDD2",
            train,
            (
                good(kolektor / "test/20001.png"),
                TestImage(kolektor / "test/20000.png", "defect", True, kolektor / "test/20000_GT.png"),
            ),
        )
    ]
    assert training_images([kolektor]) == list(train)
    assert [category.name for category in load_categories(kolektor.parent)] == ["KSDD2"]


def test_training_reads_the_training_masks_only(kolektor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = images.read_mask

    def noting(path: Path) -> object:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr(images, "read_mask", noting)
    training_images([kolektor])
    assert read == ["9999_GT.png", "10000_GT.png", "10001_GT.png"]


@pytest.mark.parametrize("part", ["train", "test"])
def test_half_of_kolektor(kolektor: Path, part: str) -> None:
    half = kolektor / part
    for read in (load_categories, train_on):
        assert refused(half, read) == (
            f"{half}: looks like one half of KolektorSDD2, images and masks side by side; "
            "name the folder above it, which holds train and test"
        )
    half.rename(kolektor / "other")
    assert refused(kolektor) == (
        f"{kolektor}: looks like KolektorSDD2, but {part} is missing; "
        "it needs train and test, each with N_GT.png beside each N.png"
    )
    half.mkdir()
    assert refused(kolektor) == f"{half}: no images in this folder; put N_GT.png beside each N.png"


def test_images_that_merely_end_like_masks_are_images(tmp_path: Path) -> None:
    touch(tmp_path, "golf_GT.png", "polo.png")
    assert len(training_images([tmp_path])) == 2


def test_kolektor_with_masks_missing_or_unreadable(kolektor: Path) -> None:
    mask = kolektor / "train/10000_GT.png"
    write(mask, "no picture")
    assert refused(kolektor) == (
        f"{mask}: not a readable mask, so it is not known whether its image is good; replace it, or remove both"
    )
    mask.unlink()
    assert refused(kolektor) == (
        f"{kolektor / 'train/10000.png'}: has no mask 10000_GT.png beside it, so it is not known whether it is good; "
        "add one (black for a good image), or remove the image"
    )


def test_kolektor_without_a_good_image(kolektor: Path) -> None:
    for name in ("9999", "10000"):
        draw(kolektor / f"train/{name}_GT.png", blot=255)
    assert refused(kolektor) == f"{kolektor / 'train'}: no image has a black mask, so there is no good one to fit on"


# The command line


SMALL = (
    *("--backbone", "efficientnet-lite0", "--device", "cpu", "--set", "preprocessing.size=64,64"),
    *("--set", "backbone.layers=stage3,", "--sampler", "random", "--set", "sampler.ratio=0.1"),
)


@pytest.fixture
def drawn_visa(tmp_path: Path) -> Path:
    root = tmp_path / "VisA"
    write(root / "split_csv/1cls.csv", VISA)
    for line in VISA.splitlines()[1:]:
        _, _, label, image, mask = line.split(",")
        draw(root / image, ground=120, blot=240 if label == "anomaly" else 0)
        if mask:
            draw(root / mask, blot=2)
    return root


def fitted_on(model: Path) -> set[Path]:
    return {Path(image) for image in Detector.load(model, device="cpu").training_images}


def test_evaluate_and_fit_visa(drawn_visa: Path, tmp_path: Path) -> None:
    done("evaluate", drawn_visa, "--out", tmp_path / "out", *SMALL)
    figures = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert list(figures["categories"]) == ["candle", "pcb1"]
    assert figures["failed"] == []
    for category in figures["categories"].values():
        assert category["image_auroc"] == 1.0
        assert category["pixel_auroc"] > 0.8
    done("fit", drawn_visa / "candle", "--out", tmp_path / "m.safetensors", *SMALL)
    normal = drawn_visa / "candle/Data/Images/Normal"
    assert fitted_on(tmp_path / "m.safetensors") == {normal / "0091.JPG", normal / "0836.JPG"}


def test_evaluate_and_fit_a_table(drawn_visa: Path, tmp_path: Path) -> None:
    text = VISA.replace("object,split,label,image,mask", "category;split;label;path;mask").replace(",", ";")
    file = write(drawn_visa / "parts.csv", "\ufeff" + text)
    done("evaluate", file, "--category", "pcb1", "--out", tmp_path / "out", *SMALL)
    figures = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert list(figures["categories"]) == ["pcb1"]
    assert figures["categories"]["pcb1"]["image_auroc"] == 1.0
    assert figures["categories"]["pcb1"]["pixel_auroc"] > 0.8
    done("fit", file / "pcb1", "--out", tmp_path / "m.safetensors", *SMALL)
    assert fitted_on(tmp_path / "m.safetensors") == {drawn_visa / "pcb1/Data/Images/Normal/0001.JPG"}
