"""Keys for S3 from a file in the format of AWS's tools, which another program may renew."""

from __future__ import annotations

import configparser
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore.store import S3Credential

SECTION = "default"
REFRESH_INTERVAL = timedelta(minutes=5)


class FileCredentials:
    """The keys of section `[default]`, read whenever the client asks and every 5 minutes."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self) -> S3Credential:
        """Return the keys that the file has now.

        Raises:
            ValueError: There is no such file, or it has no keys; never shows its content.
        """
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(self.path.read_text(encoding="utf-8"))
            keys = parser[SECTION]
            access_key_id, secret_access_key = (
                keys["aws_access_key_id"],
                keys["aws_secret_access_key"],
            )
        except OSError as err:
            raise ValueError(f"storage.credentials_file {self.path}: {err.strerror}") from err
        except (configparser.Error, KeyError):
            raise ValueError(
                f"storage.credentials_file {self.path}: wanted [{SECTION}] with aws_access_key_id "
                "and aws_secret_access_key"
            ) from None
        return {
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
            "token": keys.get("aws_session_token"),
            "expires_at": datetime.now(UTC) + REFRESH_INTERVAL,
        }
