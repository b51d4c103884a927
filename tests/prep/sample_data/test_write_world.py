"""Sample data as files: every source reads it, seeds differ, equal arguments give equal bytes."""

import base64
import io
import json
import re
import shutil

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from vchat.prep.sample_data.questions import by_place
from vchat.prep.sample_data.world import Cover
from vchat.prep.sample_data.write_world import MARKER, World, write_world
from vchat.prep.sources.catalogue import SOURCES
from vchat.shards.text.template import Text
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.converting import run_source
from vchat_testing.recognition import recognise

SMALL = World(images=240, seed=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    write_world(folder, SMALL)
    return folder


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def contents(folder):
    """Return relative path -> bytes of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_reads_its_files_without_a_defect(name, data, tmp_path):
    records, tally = run_source(SOURCES[name], data, work=tmp_path)
    assert records
    assert set(tally["rejected_rows"]["counts"]) <= {"wrong_split"}
    assert not any(tally["rejected_pairs"].values())


def test_equal_arguments_give_equal_bytes(data, tmp_path):
    write_world(tmp_path / "again", SMALL)
    assert contents(tmp_path / "again") == contents(data)


def test_other_seeds_give_other_pictures(data, tmp_path):
    write_world(tmp_path / "other", World(images=240, seed=4))
    mine, others = (pictures(folder) for folder in (data, tmp_path / "other"))
    assert len(mine) > 300
    assert not mine & others


def test_no_picture_of_the_evaluation_is_used_elsewhere(data):
    held_out = {path.read_bytes() for path in (data / "eval/images").iterdir()}
    used = {path.read_bytes() for path in data.rglob("*.jpg") if path.parts[-3] != "eval"}
    assert held_out
    assert not held_out & used


def pictures(folder):
    return {path.read_bytes() for path in folder.rglob("*.jpg")}


def test_an_interrupted_world_is_finished_to_equal_bytes(data, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(data, half)
    marker = read(half / MARKER)
    (half / MARKER).write_text(json.dumps({**marker, "complete": False}))
    (half / "eval.json").unlink()
    next((half / "coco/train2017").iterdir()).write_bytes(b"half")
    assert write_world(half, SMALL)
    assert contents(half) == contents(data)


def test_a_complete_world_is_left_alone(data):
    assert not write_world(data, SMALL)


def test_another_world_in_the_folder_is_refused(data):
    with pytest.raises(ValueError, match=r"holds another world: .*'seed': 3.*wanted .*'seed': 9"):
        write_world(data, World(images=240, seed=9))


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    photograph = tmp_path / "coco/train2017/000000000001.jpg"
    photograph.parent.mkdir(parents=True)
    photograph.write_bytes(b"a real one")
    with pytest.raises(ValueError, match="is not empty and holds no sample data"):
        write_world(tmp_path, SMALL)
    assert photograph.read_bytes() == b"a real one"


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--images 7 is too few, wanted at least 120"):
        write_world(tmp_path, World(images=7, seed=0))


def test_llava_files_have_the_published_shape(data):
    places = set()
    for name in ("detail_23k", "complex_reasoning_77k", "conversation_58k"):
        rows = read(data / f"llava/{name}.json")
        assert len({row["id"] for row in rows}) == len(rows)
        for row in rows:
            assert set(row) == {"id", "image", "conversations"}
            assert row["image"] == f"{row['id']}.jpg"
            assert re.fullmatch(r"\d{12}", row["id"])
            first, *later = [turn["value"] for turn in row["conversations"]]
            assert first.count("<image>") == 1
            assert not any("<image>" in text for text in later)
            places.add(first.startswith("<image>\n"))
            places.add(not first.endswith("\n<image>"))
            roles = [turn["from"] for turn in row["conversations"]]
            assert roles == ["human", "gpt"] * (len(roles) // 2)
    assert places == {True, False}


def test_llava_describes_the_picture_it_names(data):
    checked = 0
    for row in read(data / "llava/detail_23k.json"):
        question, answer = (turn["value"] for turn in row["conversations"])
        if "Describe" in question and checked < 30:
            image = Image.open(data / "coco/train2017" / row["image"])
            assert answer == by_place(recognise(image))
            checked += 1
    assert checked == 30


def test_a_photograph_has_equal_bytes_under_both_names(data):
    for path in (data / "coco/2014").iterdir():
        number = path.stem.rpartition("_")[2]
        assert path.read_bytes() == (data / f"coco/train2017/{number}.jpg").read_bytes()


def test_captions_carry_the_karpathy_split(data):
    images = read(data / "coco_caption/dataset.json")["images"]
    assert {image["split"] for image in images} == {"train", "restval", "val", "test"}
    for image in images:
        assert (data / "coco/2014" / image["filename"]).is_file()
        assert image["sentids"] == [each["sentid"] for each in image["sentences"]]
        assert int(image["filename"][-16:-4]) == image["cocoid"]
        assert (image["split"] == "train") == (image["filepath"] == "train2014")


def test_aokvqa_points_at_the_right_choice(data):
    rows = read(data / "aokvqa/annotations/aokvqa_v1p0_train.json")
    for row in rows:
        assert row["choices"][row["correct_choice_idx"]] == row["direct_answers"][0]
        assert len(set(row["choices"])) == 4
        assert (data / f"coco/train2017/{row['image_id']:012d}.jpg").is_file()
    assert len({row["correct_choice_idx"] for row in rows}) == 4


def test_books_are_titled_by_the_printed_word(data):
    books = read(data / "OCR_VQA/dataset.json")
    assert {1} < {book["split"] for book in books.values()} <= {1, 2, 3}
    for book_id, book in list(books.items())[:20]:
        drawn = recognise(Image.open(data / f"OCR_VQA/images/{book_id}.jpg"))
        assert isinstance(drawn, Cover)
        assert (book["title"], book["genre"]) == (drawn.word, drawn.genre)
        assert len(book["questions"]) == len(book["answers"])


@pytest.mark.parametrize("name, num_images", [("CGD", 2), ("SD", 2), ("TVC", 6), ("VST", 5)])
def test_mimicit_holds_instructions_and_stretched_pictures(name, num_images, data):
    folder = data / "MIMIC-IT" / name
    instructions = read(folder / f"{name}_instructions.json")["data"]
    images = read(folder / f"{name}.json")
    picture = Image.open(io.BytesIO(base64.b64decode(next(iter(images.values())), validate=True)))
    assert (picture.format, picture.size) == ("PNG", (224, 224))
    for each in instructions.values():
        assert len(each["image_ids"]) == num_images
        assert all(other in instructions for other in each["rel_ins_ids"])
    if name in ("CGD", "SD", "VST"):
        assert {i for each in instructions.values() for i in each["image_ids"]} == set(images)


def test_walks_leave_the_scan_number_out_of_instruction_ids(data):
    folder = data / "MIMIC-IT/SN"
    instructions = read(folder / "SN_instructions.json")["data"]
    images = read(folder / "SN.json")
    assert set(instructions) >= {"SN_INS_scene0000_activity0_round0"}
    for each in instructions.values():
        assert len(each["image_ids"]) == 16
        with_scan = [i.replace("_color_", "_00_color_") for i in each["image_ids"]]
        assert set(with_scan) <= set(images)
        assert not set(each["image_ids"]) & set(images)


def test_clips_are_named_twice_in_instructions_and_once_in_images(data):
    instructions = read(data / "MIMIC-IT/TVC/TVC_instructions.json")["data"]
    images = read(data / "MIMIC-IT/TVC/TVC.json")
    clip = r"s\d\de\d\d_seg\d\d_clip_\d\d"
    for each in instructions.values():
        for image_id in each["image_ids"]:
            match = re.fullmatch(rf"TVC_IMG_(\w+_)?({clip})_(\w+_{clip}_\d+)", image_id)
            assert match
            assert f"TVC_IMG_{match[3]}" in images


def test_sparkles_tags_its_images_in_order(data):
    for part in ("CC", "VG"):
        folder = data / f"sparkles/SparklesDialogue{part}"
        for row in read(folder / f"annotations/SparklesDialogue{part}.json"):
            assert [m["role"] for m in row["dialogue"]] == ["user", "assistant"] * 2
            for message in row["dialogue"]:
                tagged = re.findall(r"IMAGE#(\d+)<Img><ImageHere></Img>", message["content"])
                listed = [image["image_id"] for image in message.get("images", [])]
                assert tagged == listed
                assert all((folder / f"images/{each}.jpg").is_file() for each in listed)


def test_sparkles_and_minigpt4_share_pictures(data):
    annotations = read(data / "cc_sbu_align/filter_cap.json")["annotations"]
    for each in annotations:
        mine = data / f"cc_sbu_align/image/{each['image_id']}.jpg"
        shared = data / f"sparkles/SparklesDialogueCC/images/{each['image_id']}.jpg"
        assert mine.read_bytes() == shared.read_bytes()


def test_the_tokenizer_loads_both_ways_and_keeps_text(data):
    ours = TextTokenizer.load(data / "tokenizer")
    theirs = PreTrainedTokenizerFast.from_pretrained(data / "tokenizer")
    text = "top left: red circle, bottom right: nothing. na\u00efve \u4f60\u597d 123"
    ids = ours.encode([Text(text)]).ids.tolist()
    assert ids == theirs(text)["input_ids"]
    assert theirs.decode(ids) == text
    assert (theirs.bos_token, theirs.eos_token) == ("<s>", "</s>")
    assert len(ids) < 40


def test_the_evaluation_names_files_that_exist(data):
    entries = read(data / "eval.json")
    assert {len(entry["images"]) for entry in entries} == {1, 2}
    for entry in entries:
        assert set(entry) == {"id", "kind", "images", "question", "answer", "chance"}
        assert all((data / image).is_file() for image in entry["images"])
        assert 0 < entry["chance"] <= 0.5
