"""An image that is used repeatedly is encoded once, whoever asks."""

import numpy as np
import pytest

from vchat.prep.plan.blend import hash_image_keys
from vchat.prep.raw.rejected import Rejected
from vchat.prep.tasks.encoded_images import EncodedImages, write_repeated_images
from vchat.shards.format.record import ImageRef
from vchat.shards.format.sample import StoredImage

TWICE, ONCE = ImageRef(key="coco:1", file="a.jpg"), ImageRef(key="coco:2", file="b.jpg")


@pytest.fixture
def work(tmp_path):
    write_repeated_images(np.sort(hash_image_keys(["coco:1", "coco:9"])), tmp_path)
    return tmp_path


def counting(calls):
    def encode(ref):
        calls.append(ref.file)
        data = ref.file.encode() + b"\n\0"
        return StoredImage(
            key=ref.key, data=data, extension="jpg", size=(3, 2), original_size=(6, 4)
        )

    return encode


def test_it_is_encoded_once_across_processes(work):
    calls = []
    found = [EncodedImages(work).get(ref, counting(calls)) for ref in (TWICE, ONCE, TWICE, ONCE)]
    assert calls == ["a.jpg", "b.jpg", "b.jpg"]
    assert found[0] == found[2]
    assert found[1] == found[3]


def test_a_cut_off_file_is_made_again(work):
    calls = []
    EncodedImages(work).get(TWICE, counting(calls))
    (path,) = (work / "images").iterdir()
    whole = path.read_bytes()
    for damage in (whole[:-1], whole[:5], b""):
        path.write_bytes(damage)
        EncodedImages(work).get(TWICE, counting(calls))
        assert path.read_bytes() == whole
    assert len(calls) == 4


def test_another_file_of_the_same_photograph_is_another_image(work):
    calls = []
    other = ImageRef(key="coco:1", file="coco/2014/a.jpg")
    images = EncodedImages(work)
    assert images.get(TWICE, counting(calls)) != images.get(other, counting(calls))


def test_a_cached_image_has_the_key_of_whoever_asks(tmp_path):
    write_repeated_images(np.sort(hash_image_keys(["coco:1", "own:1"])), tmp_path)
    images, calls = EncodedImages(tmp_path), []
    assert images.get(TWICE, counting(calls)).key == "coco:1"
    assert images.get(ImageRef(key="own:1", file="a.jpg"), counting(calls)).key == "own:1"
    assert calls == ["a.jpg"]


def test_a_rejection_passes_through_and_leaves_nothing(work):
    def reject(ref):
        raise Rejected("undecodable_image", ref.file)

    with pytest.raises(Rejected):
        EncodedImages(work).get(TWICE, reject)
    assert not list((work / "images").iterdir())
