"""The collector pauses while libraries are imported, and works again behind the block."""

import gc

import pytest

from vchat.base.imports import pause_collection


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_off_inside_and_as_before_behind(enabled):
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pause_collection():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
    finally:
        gc.unfreeze()
        (gc.enable if before else gc.disable)()


def test_an_import_that_fails_leaves_the_collector_on():
    with pytest.raises(ImportError), pause_collection():
        raise ImportError("no such library")
    assert gc.isenabled()
    gc.unfreeze()


def test_a_block_that_imports_nothing_freezes_nothing():
    gc.unfreeze()
    with pause_collection():
        import gc as known  # noqa: F401
    assert gc.get_freeze_count() == 0
