"""The whole line on drawn data, by its real commands: raw data, shards, training, evaluation, chat.

The sample world lets a test look at a picture and say what it shows, so here it is checked that
image k in a tar is the one that the text of the k-th placeholder speaks about.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from vchat.prep.sample_data.questions import by_place
from vchat.prep.sample_data.world import Cover, Scene
from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.text.template import TextRound
from vchat_testing.recognition import recognise
from vchat_testing.training_runs import BIN, launch_run, losses
from vchat_testing.warm import environment

pytestmark = pytest.mark.xdist_group("launches")

DATASETS = "llava,llava_dial,ocr_vqa,otter_mimicit_cgd"


@dataclass(frozen=True)
class Line:
    """Folders of one run of the whole line."""

    data: Path
    shards: Path
    run: Path


def call(*command: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    words[0] = str(BIN / words[0])
    return subprocess.run(words, capture_output=True, text=True, input=stdin, env=environment())


def done(*command: object, stdin: str | None = None) -> str:
    result = call(*command, stdin=stdin)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Line:
    folder = tmp_path_factory.mktemp("line")
    made = Line(data=folder / "data", shards=folder / "shards", run=folder / "run")
    done("vchat-prep", "sample-data", "--out", made.data, "--images", 120, "--seed", 5)
    sizes = ("--image-size", 64, "--positions-per-image", 17, "--eval-fraction", 0.05)
    done("vchat-prep", "build", "--datasets", DATASETS, "--data", made.data, "--out", made.shards,
         "--tokenizer", made.data / "tokenizer", "--concatenate", "2,3,2,1", *sizes)  # fmt: skip
    return made


@pytest.fixture(scope="module")
def shards(line) -> ShardSet:
    return open_shards(line.shards)


@pytest.fixture(scope="module")
def samples(shards):
    return [shards.read_sample(number) for number in range(len(shards.index()))]


@pytest.fixture(scope="module")
def trained(line) -> Path:
    where = (f"data.shards={line.shards}", f"run.out={line.run}")
    how_long = ("run.steps=6", "run.save_every=3", "run.eval_every=6", "run.log_every=1")
    ended = launch_run(Path("tiny.toml"), *where, *how_long, processes=2)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return line.run


def pictures(sample) -> list[Scene | Cover]:
    return [recognise(Image.open(BytesIO(image.data))) for image in sample.images]


def spoken_of(sample) -> list[tuple[str, str, list[Scene | Cover]]]:
    """Each round with the pictures of its own record: what its words are about."""
    seen = pictures(sample)
    found = []
    for record in sample.records:
        rounds = sample.rounds[record.first_round : record.first_round + record.num_rounds]
        shown = [seen[number] for round_ in rounds for number in round_.images]
        found += [(round_.question, round_.answer, shown) for round_ in rounds]
    return found


def is_true(question: str, answer: str, shown: list[Scene | Cover]) -> bool | None:
    """Whether an answer agrees with the pictures; None if this test cannot judge the question."""
    first = shown[0]
    if isinstance(first, Cover):
        return answer in (first.word, first.genre) if "book" in question else None
    if question == "Describe the image.":
        return answer == by_place(first)
    if match := re.fullmatch(r"Describe Image ([12])\.", question):
        return answer == by_place(shown[int(match[1]) - 1])
    if question == "How many shapes are there?":
        return answer == first.number
    if match := re.fullmatch(r"What color is the (\w+)(?: in Image ([12]))?\?", question):
        scene = shown[int(match[2] or 1) - 1]
        return answer in [thing.color for thing in scene.things if thing.shape == match[1]]
    if match := re.fullmatch(r"Which image has the (\w+ \w+)\?", question):
        has = [match[1] in [thing.name for thing in scene.things] for scene in shown]
        return has.count(True) == 1 and answer == f"Image {has.index(True) + 1}"
    return None


def test_every_picture_is_the_one_its_text_speaks_about(samples):
    judged = [
        (is_true(*said), said[0], sample.key) for sample in samples for said in spoken_of(sample)
    ]
    false = [case for case in judged if case[0] is False]
    true_ones = [case for case in judged if case[0]]
    assert not false, false[:5]
    assert len(true_ones) > len(judged) / 2
    assert {key.split("/")[0] for _, _, key in true_ones} == set(DATASETS.split(","))


def test_most_pictures_differ_so_that_a_wrong_order_would_be_seen(samples):
    many = [pictures(sample) for sample in samples if len(sample.images) > 1]
    assert sum(seen != seen[::-1] for seen in many) > 0.9 * len(many) > 10


def test_supervised_tokens_decode_to_exactly_the_answers(shards, samples):
    tokenizer = shards.tokenizer()
    end = tokenizer.decode([tokenizer.end_id])
    for sample in samples:
        answers = "".join(round_.answer + end for round_ in sample.rounds)
        assert tokenizer.decode(sample.ids[sample.supervised].tolist()) == answers
        assert (sample.ids == tokenizer.image_id).sum() == len(sample.images)


def test_token_ids_are_those_of_the_rounds(shards, samples):
    tokenizer = shards.tokenizer()
    for sample in samples:
        rounds = [
            TextRound(num_images=len(one.images), question=one.question, answer=one.answer)
            for one in sample.rounds
        ]
        encoded = tokenizer.encode(shards.template.dialogue(rounds))
        assert encoded.ids.tolist() == sample.ids.tolist()


def test_every_record_is_used_once_or_rejected_with_a_reason(line, samples):
    used = [record.key for sample in samples for record in sample.records]
    assert len(used) == len(set(used))
    report = json.loads((line.shards / "report.json").read_text())
    assert sum(one["used_records"] for one in report["sources"].values()) == len(used)


def test_webdataset_reads_the_tars_unaided(line, samples):
    import webdataset

    urls = [str(path) for path in sorted(line.shards.glob("*.tar"))]
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len(read) == len(samples)
    assert {sample["json"]["key"] for sample in read} == {sample.key for sample in samples}


def test_verify_finds_no_defect_and_inspect_counts_the_samples(line, samples):
    done("vchat-shards", "verify", line.shards)
    counted = json.loads(done("vchat-shards", "inspect", line.shards, "--json"))
    assert counted["totals"]["samples"] == len(samples)


def test_a_training_on_two_processes_ends_with_a_checkpoint(trained):
    assert len(losses(trained)) == 6
    assert (trained / "latest").read_text().strip() == "step-000006"


def test_the_chat_answers_about_two_images(line, trained):
    images = sorted((line.data / "eval" / "images").iterdir())[:2]
    said = f"/image {images[0]}\n/image {images[1]}\nWhich image has a circle?\n/quit\n"
    answered = done("vchat-chat", "--checkpoint", trained, "--max-new-tokens", 8, stdin=said)
    prompt, _, rest = answered.partition("[2 images] you> Which image has a circle?\n")
    assert prompt.count("you> /image ") == 2
    assert "you> /quit" in rest


def test_evaluation_prints_accuracy_chance_and_both_ablations(line, trained):
    asked = ("--questions", line.data / "eval.json", "--ablations", "--max-new-tokens", 4)
    printed = done("vchat-train", "eval", "--checkpoint", trained, *asked)
    for word in ("chance", "blank", "swapped"):
        assert word in printed


@pytest.fixture
def tampered(line, trained, tmp_path) -> Path:
    """Return a copy of the shards whose tokenizer is another one."""
    copy = tmp_path / "shards"
    subprocess.run(["cp", "-r", str(line.shards), str(copy)], check=True)
    tokenizer = json.loads((copy / "tokenizer" / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = "a", "b"
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (copy / "tokenizer" / "tokenizer.json").write_text(json.dumps(tokenizer))
    return copy


def test_shards_with_another_tokenizer_are_refused_in_one_line(tampered, tmp_path):
    ended = launch_run(Path("tiny.toml"), f"data.shards={tampered}", f"run.out={tmp_path / 'out'}")
    assert ended.returncode == 1
    assert "another tokenizer" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "command, code, said",
    [
        (["vchat-prep", "build", "--datasets", "lava", "--out", "x"], 2, "llava"),
        (["vchat-prep", "build", "--datasets", "llava", "--data", "n", "--out", "x"], 1, "detail"),
        (["vchat-shards", "inspect", "none"], 1, "none"),
        (["vchat-train", "run", "none.toml"], 2, "none.toml"),
        (["vchat-chat", "--checkpoint", "none"], 1, "none"),
    ],
)  # fmt: skip
def test_wrong_input_gives_one_clear_line(tmp_path, monkeypatch, command, code, said):
    monkeypatch.chdir(tmp_path)
    ended = call(*command)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_package_is_imported_under_one_name():
    code = "import vchat.shards.text.tokenizer, sys; sys.exit('shards' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/").returncode == 0
