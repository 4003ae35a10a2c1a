"""CORS: the stored rules, preflight answers, and the headers that answers to browsers carry.

Rules are kept in B2's native form, so that both doors see the same ones; the S3 side's own fields stay beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from b2fs.server.ops.call import Call, Reply
from b2fs.server.wire.errors import S3Error
from b2fs.store.embedded.rows import BucketChanges, BucketRow

MAX_RULES: Final = 100
_METHODS: Final = ("GET", "PUT", "HEAD", "POST", "DELETE")
#: S3 methods as the native API names the operations behind them.
_NATIVE_OPERATIONS: Final[Mapping[str, str]] = {
    "GET": "s3_get", "PUT": "s3_put", "HEAD": "s3_head", "POST": "s3_post", "DELETE": "s3_delete",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule in S3's terms."""

    id: str
    methods: tuple[str, ...]
    origins: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age_s: int | None

    def to_native(self, number: int) -> dict[str, Any]:
        return {
            "corsRuleName": self.id or f"s3-rule-{number}",
            "allowedOrigins": list(self.origins),
            "allowedOperations": [_NATIVE_OPERATIONS[method] for method in self.methods],
            "allowedHeaders": list(self.headers),
            "exposeHeaders": list(self.exposed),
            "maxAgeSeconds": self.max_age_s,
            "s3Id": self.id,
        }


@lru_cache(maxsize=256)
def rules_of(cors_json: str | None) -> tuple[Rule, ...]:
    """The rules of a bucket; native operations that have no S3 counterpart are left out."""
    by_operation = {operation: method for method, operation in _NATIVE_OPERATIONS.items()}
    return tuple(
        Rule(
            rule.get("s3Id", rule["corsRuleName"]),
            tuple(by_operation[name] for name in rule["allowedOperations"] if name in by_operation),
            tuple(rule["allowedOrigins"]),
            tuple(rule.get("allowedHeaders") or ()),
            tuple(rule.get("exposeHeaders") or ()),
            rule.get("maxAgeSeconds"),
        )
        for rule in json.loads(cors_json or "[]")
    )


def get_cors(call: Call) -> Reply:
    """The rules, or NoSuchCORSConfiguration."""
    rules = rules_of(call.bucket.cors_json)
    if not rules:
        raise S3Error("NoSuchCORSConfiguration")
    return Reply({"CORSRules": [_shown(rule) for rule in rules]})


def _shown(rule: Rule) -> dict[str, Any]:
    shown: dict[str, Any] = {"AllowedMethods": rule.methods, "AllowedOrigins": rule.origins}
    if rule.id:
        shown["ID"] = rule.id
    if rule.headers:
        shown["AllowedHeaders"] = rule.headers
    if rule.exposed:
        shown["ExposeHeaders"] = rule.exposed
    if rule.max_age_s is not None:
        shown["MaxAgeSeconds"] = rule.max_age_s
    return shown


def put_cors(call: Call) -> Reply:
    """Replace the rules."""
    given = call.params["CORSConfiguration"]["CORSRules"]
    if len(given) > MAX_RULES:
        raise S3Error("InvalidRequest", f"More than {MAX_RULES} CORS rules")
    rules = [_parse(rule) for rule in given]
    text = json.dumps([rule.to_native(number) for number, rule in enumerate(rules, 1)])
    call.engine.update_bucket(call.bucket.id, BucketChanges(cors_json=text))
    return Reply()


def _parse(rule: dict[str, Any]) -> Rule:
    for method in rule["AllowedMethods"]:
        if method not in _METHODS:
            raise S3Error(
                "InvalidRequest", f"Found unsupported HTTP method in CORS config. Unsupported method is {method}"
            )
    for pattern in (*rule["AllowedOrigins"], *(rule.get("AllowedHeaders") or ())):
        if pattern.count("*") > 1:
            raise S3Error("InvalidRequest", f'"{pattern}" can not have more than one wildcard.')
    return Rule(
        rule.get("ID", ""),
        tuple(rule["AllowedMethods"]),
        tuple(rule["AllowedOrigins"]),
        tuple(rule.get("AllowedHeaders") or ()),
        tuple(rule.get("ExposeHeaders") or ()),
        rule.get("MaxAgeSeconds"),
    )


def delete_cors(call: Call) -> Reply:
    """No rules any more."""
    call.engine.update_bucket(call.bucket.id, BucketChanges(cors_json=None))
    return Reply()


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in text.split("*")), re.IGNORECASE)


def _match_any(patterns: Sequence[str], text: str) -> bool:
    return any(_pattern(pattern).fullmatch(text) for pattern in patterns)


def _find(bucket: BucketRow, origin: str, method: str, headers: Sequence[str] = ()) -> Rule | None:
    for rule in rules_of(bucket.cors_json):
        if method not in rule.methods or not _match_any(rule.origins, origin):
            continue
        if all(_match_any(rule.headers, header) for header in headers):
            return rule
    return None


def _headers(rule: Rule, origin: str) -> list[tuple[str, str]]:
    any_origin = "*" in rule.origins
    found = [
        ("access-control-allow-origin", "*" if any_origin else origin),
        ("access-control-allow-methods", ", ".join(rule.methods)),
        ("vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"),
    ]
    if rule.exposed:
        found.append(("access-control-expose-headers", ", ".join(rule.exposed)))
    if rule.max_age_s is not None:
        found.append(("access-control-max-age", str(rule.max_age_s)))
    if not any_origin:
        found.append(("access-control-allow-credentials", "true"))
    return found


def preflight(bucket: BucketRow, headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The headers that allow what a browser asks for.  Raises InvalidRequest, AccessDenied."""
    origin = headers.get("origin")
    method = headers.get("access-control-request-method")
    if not origin:
        raise S3Error("InvalidRequest", "Insufficient information. Origin request header needed.")
    if method not in _METHODS:
        raise S3Error("InvalidRequest", f"Invalid Access-Control-Request-Method: {method or 'null'}")
    wanted = [name.strip().lower() for name in headers.get("access-control-request-headers", "").split(",")]
    wanted = [name for name in wanted if name]
    rule = _find(bucket, origin, method, wanted)
    if rule is None:
        raise S3Error("AccessDenied", "CORSResponse: This CORS request is not allowed.")
    found = _headers(rule, origin)
    if wanted:
        found.append(("access-control-allow-headers", ", ".join(wanted)))
    return found


def answer_headers(bucket: BucketRow, method: str, headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """What an ordinary answer adds for a browser; nothing without a matching rule."""
    origin = headers.get("origin")
    if not origin or bucket.cors_json is None:
        return []
    rule = _find(bucket, origin, headers.get("access-control-request-method", method))
    return _headers(rule, origin) if rule is not None else []
