"""Keys that lie ready, found without botocore, whose import takes longer than all else that a mount needs.

Only the plain cases, in which botocore's chain would take the very same keys: the environment, and a profile of the
credentials file that holds keys and nothing else.  Everything that needs a decision (roles, single sign-on,
processes, temporary keys with an end) is left to botocore: the answer is None then, and it explains what is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

_KEY, _SECRET, _TOKEN = "aws_access_key_id", "aws_secret_access_key", "aws_session_token"
#: What a section of the config file may say about a profile without a say in which keys it has.
_HARMLESS = frozenset({"region", "output", "cli_pager", "cli_timestamp_format", "s3", "endpoint_url", "retry_mode"})


class Frozen(NamedTuple):
    """Keys as they are at a moment."""

    access_key: str
    secret_key: str
    token: str | None


class StaticKeys(NamedTuple):
    """Keys without an end; stands where botocore's Credentials stand."""

    access_key: str
    secret_key: str
    token: str | None

    def __repr__(self) -> str:
        return "<keys>"  # nothing that is logged by mistake

    def get_frozen_credentials(self) -> Frozen:
        return Frozen(self.access_key, self.secret_key, self.token)


def find_nearby(profile: str | None, environ: Mapping[str, str] = os.environ) -> StaticKeys | None:
    """The keys that botocore's chain would find first, if they are plain; None leaves the question to it.

    profile is what the user named, which puts the environment's keys out of account.  Reads files.
    """
    if profile is None and environ.get("AWS_ACCESS_KEY_ID"):
        return _from_environment(environ)
    if environ.get("AWS_ROLE_ARN") or environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return None
    name = profile or environ.get("AWS_DEFAULT_PROFILE") or environ.get("AWS_PROFILE") or "default"
    return _from_files(name, environ)


def _from_environment(environ: Mapping[str, str]) -> StaticKeys | None:
    if not environ.get("AWS_SECRET_ACCESS_KEY") or environ.get("AWS_CREDENTIAL_EXPIRATION"):
        return None
    token = environ.get("AWS_SECURITY_TOKEN") or environ.get("AWS_SESSION_TOKEN") or None
    return StaticKeys(environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], token)


def _from_files(profile: str, environ: Mapping[str, str]) -> StaticKeys | None:
    keys = _section(environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials", (profile,))
    names = (profile,) if profile == "default" else (f"profile {profile}", profile)
    settings = _section(environ.get("AWS_CONFIG_FILE") or "~/.aws/config", names)
    if keys is None or settings is None or settings.keys() - _HARMLESS:
        return None
    if not keys.keys() <= {_KEY, _SECRET, _TOKEN} or not (keys.get(_KEY) and keys.get(_SECRET)):
        return None
    return StaticKeys(keys[_KEY], keys[_SECRET], keys.get(_TOKEN))


def _section(path: str, names: tuple[str, ...]) -> dict[str, str] | None:
    """What the file says under one of the names; {} if it says nothing, None if it cannot be read as plain text."""
    import configparser  # not where the environment has the keys

    parser = configparser.RawConfigParser(default_section="\n")  # a name that no section can have
    try:
        with open(os.path.expandvars(os.path.expanduser(path)), encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, configparser.Error):
        return None
    return {key: value for name in names if parser.has_section(name) for key, value in parser.items(name)}
