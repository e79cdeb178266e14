"""Each data set by its layout on disk: what is read from the right one, and what is said of a wrong one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchcore_plugin import images
from patchcore_plugin.cli import main
from patchcore_plugin.datasets import Category, TestPhoto, load_categories, load_category, training_photos
from patchcore_plugin.errors import DatasetError


def touch(root: Path, *names: str) -> None:
    """Make empty files: whoever opened one as an image would fail."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def draw(path: Path, *, blot: int = 0, size: tuple[int, int] = (48, 64), ground: int = 0) -> Path:
    """Write a picture of one shade; with a blot of another, if any."""
    pixels = np.full(size, ground, dtype=np.uint8)
    pixels[10:20, 10:20] = blot or ground
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def good(path: Path) -> TestPhoto:
    return TestPhoto(path, "good", False, None)


def refused(dataset: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        load_categories(dataset)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
                TestPhoto(root / "test/hole/000.png", "hole", True, root / "ground_truth/hole" / mask),
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
        TestPhoto(btad / "01/test/ko/0000.bmp", "ko", True, btad / "01/ground_truth/ko/0000.png"),
        TestPhoto(btad / "01/test/ko/0002.bmp", "ko", True, None),
    )
    assert load_categories(btad / "01") == [first]
    assert training_photos([btad / "01"]) == list(first.train)


def test_btad_incomplete(btad: Path) -> None:
    for photo in (btad / "01/train/ok").iterdir():
        photo.unlink()
    (btad / "01/train/ok").rmdir()
    assert refused(btad / "01") == (
        f"{btad / '01'}: looks like a category of BTAD, but train/ok is missing; put the good photos there"
    )
    touch(btad, "03/train/ok/1.bmp")
    assert refused(btad / "03") == (
        f"{btad / '03'}: looks like a category of BTAD, but test is missing; "
        "put good photos into test/ok and others into test/KIND-OF-DEFECT"
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
    # In no split, and no photo of the data set.
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
            TestPhoto(data / "Images/Anomaly/000.JPG", "defect", True, data / "Masks/Anomaly/000.png"),
        ),
    )
    assert pcb1.name == "pcb1"


def test_one_category_of_visa(visa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [category.name for category in load_categories(visa / "pcb1")] == ["pcb1"]
    assert training_photos([visa / "pcb1"]) == [visa / "pcb1/Data/Images/Normal/0001.JPG"]
    monkeypatch.chdir(visa / "pcb1")
    assert load_category(Path()).name == "pcb1"
    with pytest.raises(DatasetError) as caught:
        training_photos([visa])
    assert str(caught.value) == (
        f"{visa}: holds categories, not photos of one product; choose one, such as {visa / 'candle'}: candle, pcb1"
    )


def test_visa_of_which_one_category_is_unpacked(visa: Path) -> None:
    (visa / "pcb1").rename(visa.parent / "elsewhere")
    assert [category.name for category in load_categories(visa)] == ["candle"]
    (visa / "candle").rename(visa.parent / "gone")
    assert refused(visa) == f"{visa}: looks like VisA, but has none of the folders in split_csv/1cls.csv: candle, pcb1"


def test_visa_without_its_split(visa: Path) -> None:
    (visa / "split_csv/1cls.csv").unlink()
    todo = "copy it from the data set, or fit on all good photos of a category:"
    assert refused(visa) == (
        f"{visa}: looks like VisA, but split_csv/1cls.csv is missing; {todo} {visa / 'CATEGORY/Data/Images/Normal'}"
    )
    candle = visa / "candle"
    for read in (load_categories, lambda folder: training_photos([folder])):
        with pytest.raises(DatasetError) as caught:
            read(candle)
        assert str(caught.value) == (
            f"{candle}: looks like a category of VisA, but {visa / 'split_csv/1cls.csv'} is missing; "
            f"{todo} {candle / 'Data/Images/Normal'}"
        )
    assert len(training_photos([candle / "Data/Images/Normal"])) == 4


def test_visa_with_a_wrong_split(visa: Path) -> None:
    split = visa / "split_csv/1cls.csv"
    touch(visa, "pcb9/Data/Images/Normal/1.JPG")
    assert refused(visa / "pcb9") == f"{visa / 'pcb9'}: {split} has no such object; it has: candle, pcb1"
    photo = visa / "candle/Data/Images/Normal/0016.JPG"
    photo.unlink()
    assert refused(visa) == f"{split}, line 5: no such file: {photo}"
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
                TestPhoto(kolektor / "test/20000.png", "defect", True, kolektor / "test/20000_GT.png"),
            ),
        )
    ]
    assert training_photos([kolektor]) == list(train)
    assert [category.name for category in load_categories(kolektor.parent)] == ["KSDD2"]


def test_training_reads_the_training_masks_only(kolektor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = images.read_mask

    def noting(path: Path) -> object:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr(images, "read_mask", noting)
    training_photos([kolektor])
    assert read == ["9999_GT.png", "10000_GT.png", "10001_GT.png"]


@pytest.mark.parametrize("part", ["train", "test"])
def test_half_of_kolektor(kolektor: Path, part: str) -> None:
    half = kolektor / part
    for read in (load_categories, lambda folder: training_photos([folder])):
        with pytest.raises(DatasetError) as caught:
            read(half)
        assert str(caught.value) == (
            f"{half}: looks like one half of KolektorSDD2, photos and masks side by side; "
            "name the folder above it, which holds train and test"
        )
    half.rename(kolektor / "other")
    assert refused(kolektor) == (
        f"{kolektor}: looks like KolektorSDD2, but {part} is missing; "
        "it needs train and test, each with N_GT.png beside each N.png"
    )
    half.mkdir()
    assert refused(kolektor) == f"{half}: no photos in this folder; put N_GT.png beside each N.png"


def test_photos_that_merely_end_like_masks_are_photos(tmp_path: Path) -> None:
    touch(tmp_path, "golf_GT.png", "polo.png")
    assert len(training_photos([tmp_path])) == 2


def test_kolektor_with_masks_missing_or_unreadable(kolektor: Path) -> None:
    mask = kolektor / "train/10000_GT.png"
    write(mask, "no picture")
    assert refused(kolektor) == (
        f"{mask}: not a readable mask, so it is not known whether its photo is good; replace it, or remove both"
    )
    mask.unlink()
    assert refused(kolektor) == (
        f"{kolektor / 'train/10000.png'}: has no mask 10000_GT.png beside it, so it is not known whether it is good; "
        "add one (black for a good photo), or remove the photo"
    )


def test_kolektor_without_a_good_photo(kolektor: Path) -> None:
    for name in ("9999", "10000"):
        draw(kolektor / f"train/{name}_GT.png", blot=255)
    assert refused(kolektor) == f"{kolektor / 'train'}: no photo has a black mask, so there is no good one to fit on"


# A table


def table(root: Path, text: str, name: str = "parts.csv") -> Path:
    touch(root, *(f"photos/{number}.png" for number in (1, 2, 3, 10)), "masks/3.png")
    return write(root / name, text)


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table(tmp_path: Path, start: str, separator: str, end: str) -> None:
    rows = (
        "Path,Label,Split,Mask,note",
        "photos/10.png,good,train,,",
        " photos/2.png , OK ,Train,,seen twice",
        "",
        "photos/../photos/2.png,good,train",
        ",,,,",
        "photos/3.png,NG,test,masks/3.png,",
        "photos/1.png,0,test,masks/of-a-good-photo.png,",
    )
    file = table(tmp_path, start + end.join(rows).replace(",", separator) + end)
    assert load_categories(file) == [
        Category(
            "parts",
            (tmp_path / "photos/2.png", tmp_path / "photos/10.png"),
            (
                good(tmp_path / "photos/1.png"),
                TestPhoto(tmp_path / "photos/3.png", "defect", True, tmp_path / "masks/3.png"),
            ),
        )
    ]


def test_a_table_of_categories_and_kinds(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.touch()
    file = table(
        tmp_path / "set",
        "category,path,label,kind,split,mask\n"
        "nut 10,photos/1.png,good,good,train,\n"
        "nut 10,photos/2.png,bad,crack 10,test,\n"
        "nut 10,photos/3.png,bad,crack 9,test,masks/3.png\n"
        "nut 10,photos/10.png,good,,test,\n"
        f"nut 9,{outside},normal,,train,\n"
        'nut 9,"photos/1.png",1,,train,\n'
        "nut 9,../outside.png,normal,,train,\n"
        "nut 9,photos/3.png,1,,test,\n",
    )
    nine, ten = load_categories(file)
    assert (nine.name, ten.name) == ("nut 9", "nut 10")
    # The defective photo for training is left out, and the good one is taken once.
    assert nine.train == (outside,)
    assert [photo.kind for photo in nine.test] == ["defect"]
    assert [photo.kind for photo in ten.test] == ["good", "crack 9", "crack 10"]
    assert [photo.mask for photo in ten.test] == [None, file.parent / "masks/3.png", None]
    assert load_categories(file / "nut 10") == [ten]
    assert training_photos([file / "nut 10"]) == [file.parent / "photos/1.png"]
    with pytest.raises(DatasetError, match=r"choose one, such as .*parts\.csv.nut 9: nut 9, nut 10$"):
        training_photos([file])
    assert refused(file / "bolt") == f"{file}: no category 'bolt'; it has: nut 9, nut 10"


def test_training_on_a_table_needs_its_training_photos_only(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label,split\nphotos/1.png,good,train\ngone.png,good,test\n")
    assert training_photos([file]) == [tmp_path / "photos/1.png"]
    assert refused(file) == f"{file}, line 3: no such file: {tmp_path / 'gone.png'}"


HEAD = "path,label,split,mask,kind,category\n"
LABELS = "write good, normal, ok, 0 for a good photo, bad, anomaly, defect, ko, ng, 1 for another"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": empty; its first line must name the columns: path, label, split"),
        ("\n ,\n", ": empty; its first line must name the columns: path, label, split"),
        ("photos/1.png,good,train\n", ": no column path, label, split; its first line has: photos/1.png, good, train"),
        ("path,label\n", ": no column split; its first line has: path, label"),
        ("path,label,split,Label\n", ": two columns are called label; rename one"),
        ("path,label,split\n", ": no rows below the header; write one photo a row"),
        ("path,label,split\n,good,train\n", ", line 2: path is empty; write the path of a photo"),
        ("path,label,split\ngone.png,good,train\n", ", line 2: no such file: {}/gone.png"),
        ("path,label,split\nphotos,good,train\n", ", line 2: no such file: {}/photos"),
        (
            "path,label,split\nphotos/1.png,good,train\nphotos/2.png,godo,train\n",
            f", line 3: label is 'godo'; {LABELS}",
        ),
        ("path,label,split\nphotos/1.png,good\n", ", line 2: split is ''; write train or test"),
        ("path,label,split\nphotos/1.png,good,val\n", ", line 2: split is 'val'; write train or test"),
        (
            "path,label,split\nphotos/1,000.png,good,train\n",
            ", line 2: more cells than the header has; quote what holds a separator",
        ),
        ('path,label,split\n"a"b,good,train\n', ", line 2: not a readable row (',' expected after '\"')"),
        (
            HEAD + "photos/1.png,good,test,,crack,nut\n",
            ", line 2: label is 'good', but kind is 'crack'; correct one of them",
        ),
        (
            HEAD + "photos/1.png,bad,test,,good,nut\n",
            ", line 2: label is 'bad', but kind is 'good'; correct one of them",
        ),
        *(
            (
                HEAD + f"photos/1.png,good,train,,,{name}\n",
                f", line 2: category is {name!r}; write what can be the name of a folder",
            )
            for name in ("", "..", "a/b", "a\\b", ".hidden", "c:")
        ),
        (
            "path,label,split\nphotos/1.png,good,train\n./photos/1.png,good,test\n",
            ", line 3: {}/photos/1.png is in line 2 already, and differs; keep one of the two",
        ),
        (
            HEAD + "photos/1.png,good,train,,,nut\nphotos/3.png,bad,test,masks/4.png,,nut\n",
            ", line 3: no such file: {}/masks/4.png",
        ),
        (
            "path,label,split\nphotos/1.png,bad,train\nphotos/2.png,good,test\n",
            ": no row of category parts has a good label and split train; a fit needs some",
        ),
        (
            "path,label,split\nphotos/1.png,good,train\n",
            ": no row of category parts has split test; an evaluation needs some",
        ),
    ],
)
def test_a_wrong_table(tmp_path: Path, text: str, message: str) -> None:
    file = table(tmp_path, text)
    assert refused(file) == f"{file}{message.format(tmp_path)}"


def test_a_table_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "parts.csv"
    file.write_bytes("path,label,split\nü.png,good,train\n".encode("cp1252"))
    assert refused(file).startswith(f"{file}: not a readable table (")
    assert refused(file).endswith("); save it as CSV in UTF-8")


# Masks


@pytest.mark.parametrize("blot", [1, 3, 255])
def test_whatever_is_not_black_in_a_mask_is_defect(tmp_path: Path, blot: int) -> None:
    """VisA numbers the kinds of defect from 1 on; the others write 255."""
    mask = images.read_mask(draw(tmp_path / "mask.png", blot=blot))
    assert mask.sum() == 100
    assert mask[10:20, 10:20].all()


# The command line


SMALL = (
    *("--backbone", "efficientnet-lite0", "--device", "cpu", "--set", "preprocessing.size=64,64"),
    *("--set", "backbone.layers=stage3,", "--sampler", "random", "--set", "sampler.ratio=0.1"),
)


def patchcore(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["patchcore", *map(str, arguments), *SMALL])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


@pytest.fixture
def drawn_visa(tmp_path: Path) -> Path:
    root = tmp_path / "VisA"
    write(root / "split_csv/1cls.csv", VISA)
    for line in VISA.splitlines()[1:]:
        _, _, label, photo, mask = line.split(",")
        draw(root / photo, ground=120, blot=240 if label == "anomaly" else 0)
        if mask:
            draw(root / mask, blot=2)
    return root


def test_evaluate_and_fit_visa(drawn_visa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patchcore(monkeypatch, "evaluate", drawn_visa, "--out", tmp_path / "out")
    figures = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert list(figures["categories"]) == ["candle", "pcb1"]
    assert figures["failed"] == []
    for category in figures["categories"].values():
        assert category["image_auroc"] == 1.0
        assert category["pixel_auroc"] > 0.8
    patchcore(monkeypatch, "fit", drawn_visa / "candle", "--out", tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").is_file()


def test_evaluate_and_fit_a_table(drawn_visa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = VISA.replace("object,split,label,image,mask", "category;split;label;path;mask").replace(",", ";")
    file = write(drawn_visa / "parts.csv", "\ufeff" + text)
    patchcore(monkeypatch, "evaluate", file, "--category", "pcb1", "--out", tmp_path / "out")
    figures = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert list(figures["categories"]) == ["pcb1"]
    assert figures["categories"]["pcb1"]["image_auroc"] == 1.0
    assert figures["categories"]["pcb1"]["pixel_auroc"] > 0.8
    patchcore(monkeypatch, "fit", file / "pcb1", "--out", tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").is_file()
