"""The server that tests of object storage rely on: it checks keys, and honours conditions."""

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from vchat_testing.s3_server import BUCKET, Bucket


def test_what_is_stored_comes_back_whole_and_by_range(s3: Bucket) -> None:
    data = bytes(range(256)) * 40_000
    s3.put("folder/object", data)
    assert s3.get("folder/object") == data
    assert obstore.get_range(s3.store, "folder/object", start=300, end=310) == data[300:310]
    assert s3.names("folder") == ["folder/object"]


def test_an_object_is_created_only_once(s3: Bucket) -> None:
    obstore.put(s3.store, "one", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(s3.store, "one", b"second", mode="create")
    assert s3.get("one") == b"first"


def test_a_wrong_secret_is_refused(s3: Bucket) -> None:
    s3.put("one", b"first")
    stranger = S3Store(
        BUCKET,
        prefix=s3.prefix,
        endpoint=s3.endpoint,
        access_key_id="vchat-test",
        secret_access_key="guessed",
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    with pytest.raises((BaseError, PermissionError)):
        obstore.get(stranger, "one")
