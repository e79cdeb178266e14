"""Data sets as CSV tables: what is read from a right one, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchcore_plugin.data.datasets import Category, TestImage, load_categories, training_images
from tests.data.dataset_files import good, refused, touch, train_on, write


def table(root: Path, text: str, name: str = "parts.csv") -> Path:
    touch(root, *(f"images/{number}.png" for number in (1, 2, 3, 10)), "masks/3.png")
    return write(root / name, text)


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table(tmp_path: Path, start: str, separator: str, end: str) -> None:
    rows = (
        "Path,Label,Split,Mask,note",
        "images/10.png,good,train,,",
        " images/2.png , OK ,Train,,seen twice",
        "",
        "images/../images/2.png,good,train",
        ",,,,",
        "images/3.png,NG,test,masks/3.png,",
        "images/1.png,0,test,masks/of-a-good-image.png,",
    )
    file = table(tmp_path, start + end.join(rows).replace(",", separator) + end)
    assert load_categories(file) == [
        Category(
            "parts",
            (tmp_path / "images/2.png", tmp_path / "images/10.png"),
            (
                good(tmp_path / "images/1.png"),
                TestImage(tmp_path / "images/3.png", "defect", True, tmp_path / "masks/3.png"),
            ),
        )
    ]


def test_a_table_of_categories_and_kinds(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.touch()
    file = table(
        tmp_path / "set",
        "category,path,label,kind,split,mask\n"
        "nut 10,images/1.png,good,good,train,\n"
        "nut 10,images/2.png,bad,crack 10,test,\n"
        "nut 10,images/3.png,bad,crack 9,test,masks/3.png\n"
        "nut 10,images/10.png,good,,test,\n"
        f"nut 9,{outside},normal,,train,\n"
        'nut 9,"images/1.png",1,,train,\n'
        "nut 9,../outside.png,normal,,train,\n"
        "nut 9,images/3.png,1,,test,\n",
    )
    nine, ten = load_categories(file)
    assert (nine.name, ten.name) == ("nut 9", "nut 10")
    # The defective image for training is left out, and the good one is taken once.
    assert nine.train == (outside,)
    assert [image.kind for image in nine.test] == ["defect"]
    assert [image.kind for image in ten.test] == ["good", "crack 9", "crack 10"]
    assert [image.mask for image in ten.test] == [None, file.parent / "masks/3.png", None]
    assert load_categories(file / "nut 10") == [ten]
    assert training_images([file / "nut 10"]) == [file.parent / "images/1.png"]
    assert refused(file, train_on) == (
        f"{file}: holds categories, not images of one product; choose one, such as {file / 'nut 9'}: nut 9, nut 10"
    )
    assert refused(file / "bolt") == f"{file}: no category 'bolt'; it has: nut 9, nut 10"


def test_training_on_a_table_needs_its_training_images_only(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label,split\nimages/1.png,good,train\ngone.png,good,test\n")
    assert training_images([file]) == [tmp_path / "images/1.png"]
    assert refused(file) == f"{file}, line 3: no such file: {tmp_path / 'gone.png'}"


HEAD = "path,label,split,mask,kind,category\n"


LABELS = "write good, normal, ok, 0 for a good image, bad, anomaly, defect, ko, ng, 1 for another"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": empty; its first line must name the columns: path, label, split"),
        ("\n ,\n", ": empty; its first line must name the columns: path, label, split"),
        ("images/1.png,good,train\n", ": no column path, label, split; its first line has: images/1.png, good, train"),
        ("path,label\n", ": no column split; its first line has: path, label"),
        ("path,label,split,Label\n", ": two columns are called label; rename one"),
        ("path,label,split\n", ": no rows below the header; write one image a row"),
        ("path,label,split\n,good,train\n", ", line 2: path is empty; write the path of an image"),
        ("path,label,split\ngone.png,good,train\n", ", line 2: no such file: {}/gone.png"),
        ("path,label,split\nimages,good,train\n", ", line 2: no such file: {}/images"),
        (
            "path,label,split\nimages/1.png,good,train\nimages/2.png,godo,train\n",
            f", line 3: label is 'godo'; {LABELS}",
        ),
        ("path,label,split\nimages/1.png,good\n", ", line 2: split is ''; write train or test"),
        ("path,label,split\nimages/1.png,good,val\n", ", line 2: split is 'val'; write train or test"),
        (
            "path,label,split\nimages/1,000.png,good,train\n",
            ", line 2: more cells than the header has; quote what holds a separator",
        ),
        ('path,label,split\n"a"b,good,train\n', ", line 2: not a readable row (',' expected after '\"')"),
        (
            HEAD + "images/1.png,good,test,,crack,nut\n",
            ", line 2: label is 'good', but kind is 'crack'; correct one of them",
        ),
        (
            HEAD + "images/1.png,bad,test,,good,nut\n",
            ", line 2: label is 'bad', but kind is 'good'; correct one of them",
        ),
        *(
            (
                HEAD + f"images/1.png,good,train,,,{name}\n",
                f", line 2: category is {name!r}; write what can be the name of a folder",
            )
            for name in ("", "..", "a/b", "a\\b", ".hidden", "c:")
        ),
        (
            "path,label,split\nimages/1.png,good,train\n./images/1.png,good,test\n",
            ", line 3: {}/images/1.png is in line 2 already, and differs; keep one of the two",
        ),
        (
            HEAD + "images/1.png,good,train,,,nut\nimages/3.png,bad,test,masks/4.png,,nut\n",
            ", line 3: no such file: {}/masks/4.png",
        ),
        (
            "path,label,split\nimages/1.png,bad,train\nimages/2.png,good,test\n",
            ": no row of category parts has a good label and split train; a fit needs some",
        ),
        (
            "path,label,split\nimages/1.png,good,train\n",
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
