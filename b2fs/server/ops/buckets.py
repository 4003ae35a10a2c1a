"""Buckets and their settings."""

from __future__ import annotations

from typing import Any

from b2fs.server.ops.call import Call, Reply
from b2fs.server.ops.headers import canned_acl, refuse_grants
from b2fs.server.wire.errors import S3Error
from b2fs.store.embedded.errors import BucketExists
from b2fs.store.embedded.rows import (
    Acl,
    BucketChanges,
    BucketSpec,
    DefaultRetention,
    RetentionMode,
)

_EVERYBODY = "http://acs.amazonaws.com/groups/global/AllUsers"
#: The region in which S3 lets an owner make a bucket again.
_FORGIVING_REGION = "us-east-1"
_MAX_LOCK_DAYS = 36_500
_MAX_LOCK_YEARS = 100


def list_buckets(call: Call) -> Reply:
    """The caller's buckets by name; MaxBuckets and Prefix page and narrow it."""
    assert call.key is not None
    prefix = call.params.get("Prefix") or ""
    after = call.params.get("ContinuationToken") or ""
    limit = call.params.get("MaxBuckets", 10_000)
    if not 1 <= limit <= 10_000:
        raise S3Error("InvalidArgument", "max-buckets must be between 1 and 10000")
    account = call.key.account
    rows = [row for row in call.engine.list_buckets(account.id) if row.name.startswith(prefix) and row.name > after]
    values: dict[str, Any] = {
        "Buckets": [{"Name": row.name, "CreationDate": row.created_ms} for row in rows[:limit]],
        "Owner": {"ID": account.id, "DisplayName": account.name},
    }
    if len(rows) > limit:
        values["ContinuationToken"] = rows[limit - 1].name
    if prefix:
        values["Prefix"] = prefix
    return Reply(values)


def _location(call: Call) -> None:
    wanted = call.params.get("CreateBucketConfiguration", {}).get("LocationConstraint")
    if wanted and wanted != call.home.region:
        raise S3Error("InvalidLocationConstraint")


def create_bucket(call: Call) -> Reply:
    """Make a bucket with an ACL of B2's two, and Object Lock from the start where asked for."""
    assert call.key is not None
    _location(call)
    headers = call.request.headers
    refuse_grants(headers)
    acl = canned_acl(headers["x-amz-acl"]) if "x-amz-acl" in headers else Acl.PRIVATE
    owner = call.key.account.id
    lock = bool(call.params.get("ObjectLockEnabledForBucket"))
    name = call.target.bucket
    if len(call.engine.list_buckets(owner)) >= call.home.max_buckets:
        raise S3Error("TooManyBuckets")
    try:
        call.engine.create_bucket(BucketSpec(name, owner=owner, region=call.home.region, acl=acl, lock_enabled=lock))
    except BucketExists as error:
        if error.owner != owner:
            raise S3Error("BucketAlreadyExists") from error
        _made_again(call, acl, lock=lock)
    return Reply({"Location": f"/{name}"})


def _made_again(call: Call, acl: Acl, *, lock: bool) -> None:
    """Let an owner's repeated creation pass where S3 does, as long as it changes nothing.

    Raises BucketAlreadyOwnedByYou, or BucketAlreadyExists for a bucket with other settings.
    """
    if call.home.region != _FORGIVING_REGION:
        raise S3Error("BucketAlreadyOwnedByYou")
    bucket = call.engine.bucket(call.target.bucket)
    if (bucket.acl, bucket.lock_enabled) != (acl, lock):
        raise S3Error("BucketAlreadyExists")


def delete_bucket(call: Call) -> Reply:
    """Remove an empty bucket: hidden files and old versions count."""
    call.engine.delete_bucket(call.bucket.id)
    return Reply()


def head_bucket(call: Call) -> Reply:
    """Whether the bucket is there for the caller."""
    return Reply({"BucketRegion": call.bucket.region or call.home.region})


def get_location(call: Call) -> Reply:
    """The region; as everywhere in S3, us-east-1 is shown as nothing."""
    region = call.bucket.region or call.home.region
    return Reply({"LocationConstraint": "" if region == "us-east-1" else region})


def get_versioning(call: Call) -> Reply:
    """Always on."""
    return Reply({"Status": "Enabled"})


# --- ACL


def acl_values(call: Call) -> dict[str, Any]:
    """A bucket's ACL, which is that of its objects too, in the form of grants."""
    owner = call.owner()
    grants: list[dict[str, Any]] = []
    if call.bucket.acl is Acl.PUBLIC_READ:
        grants.append({"Grantee": {"Type": "Group", "URI": _EVERYBODY}, "Permission": "READ"})
    grants.append({"Grantee": {"Type": "CanonicalUser", **owner}, "Permission": "FULL_CONTROL"})
    return {"Owner": owner, "Grants": grants}


def requested_acl(call: Call) -> Acl:
    """The ACL that a PutBucketAcl or PutObjectAcl asks for, by header or by an equal list of grants."""
    headers = call.request.headers
    refuse_grants(headers)
    if "x-amz-acl" in headers:
        if "AccessControlPolicy" in call.params:
            raise S3Error("UnexpectedContent")
        return canned_acl(headers["x-amz-acl"])
    policy = call.params.get("AccessControlPolicy")
    if policy is None:
        raise S3Error("InvalidRequest", "Your request was missing a required header: x-amz-acl")
    return _acl_of_grants(call, policy)


def _acl_of_grants(call: Call, policy: dict[str, Any]) -> Acl:
    found: set[tuple[str, str]] = set()
    for grant in policy.get("Grants") or []:
        grantee = grant.get("Grantee") or {}
        if grantee.get("EmailAddress"):
            raise S3Error("UnresolvableGrantByEmailAddress")  # accounts have no addresses here
        found.add((grantee.get("URI") or grantee.get("ID") or "", grant.get("Permission") or ""))
    for acl in Acl:
        own = {(call.bucket.owner, "FULL_CONTROL")}
        if acl is Acl.PUBLIC_READ:
            own.add((_EVERYBODY, "READ"))
        if found == own:
            return acl
    raise S3Error("InvalidArgument", "Unsupported grants: only the canned ACLs private and public-read can be set")


def get_bucket_acl(call: Call) -> Reply:
    """Owner and grants."""
    return Reply(acl_values(call))


def put_bucket_acl(call: Call) -> Reply:
    """private or public-read."""
    call.engine.update_bucket(call.bucket.id, BucketChanges(acl=requested_acl(call)))
    return Reply()


def put_object_acl(call: Call) -> Reply:
    """Accepted where it changes nothing: an object has its bucket's ACL."""
    row = call.engine.head(call.bucket.id, call.name, call.version_id)
    acl = requested_acl(call)
    if acl is not call.bucket.acl:
        raise S3Error("InvalidArgument", f"Unsupported value for canned acl '{acl.value}'")
    return Reply(headers=(("x-amz-version-id", row.version_id),))


def get_object_acl(call: Call) -> Reply:
    """The bucket's ACL, for an object that exists."""
    row = call.engine.head(call.bucket.id, call.name, call.version_id)
    return Reply(acl_values(call), headers=(("x-amz-version-id", row.version_id),))


# --- default encryption


def get_encryption(call: Call) -> Reply:
    """The default encryption."""
    algorithm = call.bucket.default_encryption
    if algorithm is None:
        raise S3Error("ServerSideEncryptionConfigurationNotFoundError")
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": algorithm}, "BucketKeyEnabled": False}
    return Reply({"ServerSideEncryptionConfiguration": {"Rules": [rule]}})


def put_encryption(call: Call) -> Reply:
    """SSE-B2 is the only default there is."""
    rules = call.params["ServerSideEncryptionConfiguration"].get("Rules") or []
    if len(rules) != 1 or "ApplyServerSideEncryptionByDefault" not in rules[0]:
        raise S3Error("MalformedXML")
    algorithm = rules[0]["ApplyServerSideEncryptionByDefault"].get("SSEAlgorithm")
    if algorithm != "AES256":
        raise S3Error("InvalidArgument", f"Unsupported server side encryption algorithm '{algorithm}'")
    call.engine.update_bucket(call.bucket.id, BucketChanges(default_encryption=algorithm))
    return Reply()


def delete_encryption(call: Call) -> Reply:
    """No default any more."""
    call.engine.update_bucket(call.bucket.id, BucketChanges(default_encryption=None))
    return Reply()


# --- Object Lock of the bucket


def get_lock_configuration(call: Call) -> Reply:
    """Whether the bucket has Object Lock, and its default retention."""
    bucket = call.bucket
    if not bucket.lock_enabled:
        raise S3Error("ObjectLockConfigurationNotFoundError")
    values: dict[str, Any] = {"ObjectLockEnabled": "Enabled"}
    default = bucket.default_retention
    if default is not None:
        values["Rule"] = {
            "DefaultRetention": {"Mode": default.mode.value, "Days": default.days, "Years": default.years}
        }
    return Reply({"ObjectLockConfiguration": values})


def _default_retention(rule: dict[str, Any]) -> DefaultRetention:
    default = rule.get("DefaultRetention")
    if default is None or "Mode" not in default:
        raise S3Error("MalformedXML")
    days, years = default.get("Days"), default.get("Years")
    if (days is None) == (years is None):
        raise S3Error("MalformedXML")
    if days is not None and days <= 0:
        raise S3Error("InvalidRetentionPeriod", "Default retention period must be a positive integer value")
    if years is not None and years <= 0:
        raise S3Error("InvalidRetentionPeriod", "Default retention period must be a positive integer value")
    if (days or 0) > _MAX_LOCK_DAYS or (years or 0) > _MAX_LOCK_YEARS:
        raise S3Error("InvalidRetentionPeriod", "Default retention period is too large")
    return DefaultRetention(RetentionMode(default["Mode"]), days, years)


def put_lock_configuration(call: Call) -> Reply:
    """Set the default retention of a bucket that was made with Object Lock."""
    configuration = call.params.get("ObjectLockConfiguration")
    if configuration is None or configuration.get("ObjectLockEnabled") != "Enabled":
        raise S3Error("MalformedXML")
    rule = configuration.get("Rule")
    default = _default_retention(rule) if rule is not None else None
    if not call.bucket.lock_enabled:
        raise S3Error("InvalidBucketState", "Object Lock configuration cannot be enabled on existing buckets")
    call.engine.update_bucket(call.bucket.id, BucketChanges(default_retention=default))
    return Reply()
