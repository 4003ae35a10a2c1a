"""Replication and notification rules of a bucket: checked, kept and shown.  Nothing is replicated or notified."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from b2fs.server.native.context import Json, NativeCall
from b2fs.server.native.errors import bad_request
from b2fs.store.embedded.rows import BucketChanges, BucketRow

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SIGNING_SECRET: Final = re.compile(r"[a-zA-Z0-9]{32}")
_TARGET: Final = ("targetType", "url", "customHeaders", "hmacSha256SigningSecret")
_MAX_PRIORITY: Final = (1 << 31) - 1
#: Fields of a rule, and the type that each must have.
_REPLICATION_RULE: Final[Mapping[str, type]] = {
    "destinationBucketId": str,
    "fileNamePrefix": str,
    "includeExistingFiles": bool,
    "isEnabled": bool,
    "priority": int,
    "replicationRuleName": str,
}
_NOTIFICATION_RULE: Final[Mapping[str, type]] = {
    "eventTypes": list,
    "isEnabled": bool,
    "name": str,
    "objectNamePrefix": str,
    "targetConfiguration": dict,
}


def _check_fields(rule: Any, fields: Mapping[str, type], what: str) -> None:
    if not isinstance(rule, dict):
        raise bad_request(f"a {what} is not an object")
    for name, kind in fields.items():
        value = rule.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise bad_request(f"{name} of a {what} is missing or of the wrong type")


def _check_name(text: str, taken: set[str], what: str) -> None:
    if not _NAME.fullmatch(text):
        raise bad_request(f"invalid name of a {what}: {text}")
    if text in taken:
        raise bad_request(f"two of the {what}s are named {text}")
    taken.add(text)


# --- replication


def _source(setting: Any) -> Json | None:
    if setting is None:
        return None
    rules = setting.get("replicationRules") if isinstance(setting, dict) else None
    if not isinstance(rules, list) or not isinstance(setting.get("sourceApplicationKeyId"), str):
        raise bad_request("invalid asReplicationSource")
    names: set[str] = set()
    for rule in rules:
        _check_fields(rule, _REPLICATION_RULE, "replication rule")
        _check_name(rule["replicationRuleName"], names, "replication rule")
        if not 1 <= rule["priority"] <= _MAX_PRIORITY:
            raise bad_request(f"the priority of a replication rule must be from 1 to {_MAX_PRIORITY}")
    return {"replicationRules": rules, "sourceApplicationKeyId": setting["sourceApplicationKeyId"]}


def _destination(setting: Any) -> Json | None:
    if setting is None:
        return None
    mapping = setting.get("sourceToDestinationKeyMapping") if isinstance(setting, dict) else None
    if not isinstance(mapping, dict) or not all(isinstance(value, str) for value in mapping.values()):
        raise bad_request("invalid asReplicationDestination")
    return {"sourceToDestinationKeyMapping": mapping}


def replication_text(call: NativeCall) -> str | None:
    """The replicationConfiguration of a request as it is kept; None for one that switches replication off.

    Raises bad_request.
    """
    setting = call.mapping("replicationConfiguration") or {}
    value = {
        "asReplicationSource": _source(setting.get("asReplicationSource")),
        "asReplicationDestination": _destination(setting.get("asReplicationDestination")),
    }
    return json.dumps(value) if any(value.values()) else None


# --- notifications


def _rules_json(row: BucketRow) -> Json:
    return {"bucketId": row.bucket_id, "eventNotificationRules": json.loads(row.notifications_json or "[]")}


def get_notification_rules(call: NativeCall) -> Json:
    """The rules as they were set."""
    return _rules_json(call.bucket("readBucketNotifications"))


def set_notification_rules(call: NativeCall) -> Json:
    """Replace all rules."""
    row = call.bucket("writeBucketNotifications")
    rules = call.body.get("eventNotificationRules")
    if not isinstance(rules, list):
        raise bad_request("eventNotificationRules must be a list")
    names: set[str] = set()
    kept = [_notification_rule(rule, names) for rule in rules]
    changes = BucketChanges(notifications_json=json.dumps(kept) if kept else None)
    return _rules_json(call.engine.update_bucket(row.id, changes))


def _notification_rule(rule: Any, names: set[str]) -> Json:
    """A rule in the form of answers.  Raises bad_request."""
    if isinstance(rule, dict):
        rule = {"objectNamePrefix": ""} | rule
    _check_fields(rule, _NOTIFICATION_RULE, "notification rule")
    _check_name(rule["name"], names, "notification rule")
    events = rule["eventTypes"]
    if not events or not all(isinstance(event, str) and event.startswith("b2:") for event in events):
        raise bad_request("eventTypes of a notification rule must name events, as b2:ObjectCreated:*")
    fields = {name: rule[name] for name in _NOTIFICATION_RULE} | {"targetConfiguration": _target(rule)}
    return fields | {"isSuspended": False, "suspensionReason": ""}


def _target(rule: Json) -> Json:
    """Where a rule's notifications would go, with what was not given as null.  Raises bad_request."""
    target = {name: rule["targetConfiguration"].get(name) for name in _TARGET}
    url, custom, secret = target["url"], target["customHeaders"], target["hmacSha256SigningSecret"]
    if target["targetType"] != "webhook" or not isinstance(url, str) or not url.startswith("https://"):
        raise bad_request("the target of a notification rule must be a webhook with an https URL")
    if secret is not None and not (isinstance(secret, str) and _SIGNING_SECRET.fullmatch(secret)):
        raise bad_request("hmacSha256SigningSecret must have 32 letters and digits")
    if custom is not None and not (isinstance(custom, list) and all(isinstance(header, dict) for header in custom)):
        raise bad_request("customHeaders must be a list of objects with name and value")
    return target
