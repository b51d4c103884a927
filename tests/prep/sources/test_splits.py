"""Splits that are evaluation data are left out unless a recipe names them."""

import pytest

from vchat.base.cli import WrongUse
from vchat.prep.convert.convert_all import convert_all
from vchat.prep.convert.recipe import Recipe, SourceChoice, read_recipe
from vchat.prep.convert.resolve import resolve_source
from vchat_testing.raw_data import write_image, write_json


@pytest.fixture
def data(tmp_path):
    """A folder with a caption and a book of every split."""
    photos = []
    for number, split in enumerate(("train", "restval", "val", "test"), start=1):
        name = f"COCO_val2014_{number:012d}.jpg"
        write_image(tmp_path / "coco/2014" / name)
        sentences = [{"raw": f"A boat of {split}.", "sentid": number}]
        photos.append({"filename": name, "split": split, "sentences": sentences})
    write_json(tmp_path / "coco_caption/dataset.json", {"images": photos, "dataset": "coco"})
    books = {}
    for number in (1, 2, 3):
        write_image(tmp_path / f"OCR_VQA/images/000000000{number}.jpg")
        book = {"questions": ["Who?"], "answers": ["Jane"], "split": number}
        books[f"000000000{number}"] = book
    write_json(tmp_path / "OCR_VQA/dataset.json", books)
    return tmp_path


def counts(data, name, splits):
    recipe = Recipe(source=(SourceChoice(name=name, splits=splits),), data=str(data))
    one = resolve_source(recipe.source[0], recipe=recipe)
    (staged,) = convert_all([one], recipe=recipe, work=data / "work")
    return staged.tally["records"], staged.tally["rejected_rows"]["counts"].get("wrong_split", 0)


@pytest.mark.parametrize(
    "name, splits, records, rejected",
    [
        ("coco_caption", None, 2, 2),
        ("coco_caption", ("train", "restval", "val", "test"), 4, 0),
        ("coco_caption", ("val",), 1, 3),
        ("ocr_vqa", None, 1, 2),
        ("ocr_vqa", ("train", "test"), 2, 1),
    ],
)
def test_records_of_the_named_splits_are_used_and_no_others(data, name, splits, records, rejected):
    assert counts(data, name, None) == counts(data, name, None)
    assert counts(data, name, splits) == (records, rejected)


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"name": "ocr_vqa", "splits": ("trian",)}, r"its splits are train, validation, test"),
        ({"name": "ocr_vqa", "splits": ()}, r"splits = \[\]: its splits are train"),
        ({"name": "llava", "splits": ("train",)}, "its splits are none: its file holds one"),
        ({"name": "mine", "file": "x.json", "splits": ("train",)}, "your own file has none"),
    ],
)
def test_splits_that_there_are_not_are_named(data, choice, message):
    recipe = Recipe(source=(SourceChoice(**choice),), data=str(data))
    with pytest.raises(WrongUse, match=message):
        resolve_source(recipe.source[0], recipe=recipe)


def test_a_recipe_file_names_splits(tmp_path):
    (tmp_path / "r.toml").write_text('[[source]]\nname = "ocr_vqa"\nsplits = ["train", "test"]\n')
    assert read_recipe(tmp_path / "r.toml", {}).source[0].splits == ("train", "test")
