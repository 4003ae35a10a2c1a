"""The errors that an S3 client sees: code, HTTP status, message, and the XML body.

B2's texts where they are known, the S3 reference's elsewhere.  Handlers raise S3Error and never build a body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import escape

from b2fs.errors import B2fsError

#: code -> (status, message where the raiser gives none).
ERRORS: Final[Mapping[str, tuple[int, str]]] = {
    "AccessControlListNotSupported": (400, "The bucket does not allow ACLs"),
    "AccessDenied": (403, "Access Denied"),
    "AuthorizationHeaderMalformed": (400, "The authorization header you provided is invalid."),
    "AuthorizationQueryParametersError": (400, "The query parameters of the presigned request are invalid."),
    "BadDigest": (400, "The Content-MD5 you specified did not match what we received."),
    "BucketAlreadyExists": (409, "The requested bucket name is not available."),
    "BucketAlreadyOwnedByYou": (
        409,
        "Your previous request to create the named bucket succeeded and you already own it.",
    ),
    "BucketNotEmpty": (409, "The bucket you tried to delete is not empty."),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed object size."),
    "EntityTooSmall": (400, "Your proposed upload is smaller than the minimum allowed object size."),
    "IllegalLocationConstraintException": (400, "The location constraint is incompatible for this endpoint."),
    "IncompleteBody": (400, "The request body was too small"),
    "InternalError": (500, "An internal error occurred.  Please retry your upload."),
    "InvalidAccessKeyId": (403, "Malformed Access Key Id"),
    "InvalidArgument": (400, "Invalid Argument"),
    "InvalidBucketName": (400, "The specified bucket is not valid."),
    "InvalidBucketState": (409, "The request is not valid for the current state of the bucket."),
    "InvalidDigest": (400, "The Content-MD5 you specified was an invalid."),
    "InvalidEncryptionAlgorithmError": (
        400,
        "The encryption request you specified is not valid. The valid value is AES256.",
    ),
    "InvalidLocationConstraint": (400, "The specified location-constraint is not valid"),
    "InvalidPart": (
        400,
        "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified "
        "entity tag may not match the part's entity tag.",
    ),
    "InvalidPartOrder": (
        400,
        "The list of parts was not in ascending order. The parts list must be specified in order by part number.",
    ),
    "InvalidRange": (416, "The requested range is not satisfiable"),
    "InvalidRequest": (400, "Invalid Request"),
    "InvalidRetentionPeriod": (400, "The retention period specified is invalid"),
    "InvalidURI": (400, "Couldn't parse the specified URI."),
    "KeyTooLongError": (400, "Your key is too long"),
    "MalformedACLError": (
        400,
        "The XML you provided was not well-formed or did not validate against our published schema",
    ),
    "MalformedXML": (400, "The XML you provided was not well-formed or did not validate against our published schema"),
    "MalformedTrailerError": (
        400,
        "The request contained trailing data that was not well-formed or did not conform to our published schema.",
    ),
    "MaxMessageLengthExceeded": (400, "Your request was too big."),
    "MetadataTooLarge": (400, "Your metadata headers exceed the maximum allowed metadata size"),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "MissingContentLength": (411, "You must provide the Content-Length HTTP header."),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchCORSConfiguration": (404, "The CORS configuration does not exist"),
    "NoSuchKey": (404, "Key not found"),
    "NoSuchObjectLockConfiguration": (404, "The specified object does not have a ObjectLock configuration"),
    "NoSuchUpload": (
        404,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or "
        "completed.",
    ),
    "NoSuchVersion": (404, "The specified version does not exist."),
    "NotImplemented": (501, "A header you provided implies functionality that is not implemented"),
    "NotModified": (304, "Not Modified"),
    "ObjectLockConfigurationNotFoundError": (404, "Object Lock configuration does not exist for this bucket"),
    "PreconditionFailed": (412, "At least one of the pre-conditions you specified did not hold"),
    "RequestHeaderSectionTooLarge": (400, "Your request header section exceeds the maximum allowed size."),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the current time is too large"),
    "RequestTimeout": (408, "Your socket connection to the server was not read from or written to within the timeout."),
    "ServerSideEncryptionConfigurationNotFoundError": (404, "The server side encryption configuration was not found"),
    "ServiceUnavailable": (503, "no tomes available"),
    "SignatureDoesNotMatch": (403, "Signature validation failed"),
    "SlowDown": (503, "Please reduce your request rate."),
    "TooManyBuckets": (400, "You have attempted to create more buckets than allowed."),
    "UnexpectedContent": (400, "This request does not support content."),
    "UnresolvableGrantByEmailAddress": (400, "The email address you provided does not match any account on record."),
    "XAmzContentSHA256Mismatch": (400, "The provided 'x-amz-content-sha256' header does not match what was computed."),
}

#: What HTTP itself says with an empty error (HEAD): statuses without a body.
BODILESS: Final = frozenset({204, 304})


class S3Error(B2fsError):
    """A refusal with the code that S3 names; headers are added to the answer."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        default_status, default_message = ERRORS[code]
        super().__init__(message or default_message)
        self.code = code
        self.status = status or default_status
        self.headers = dict(headers or {})
        self.fields = dict(fields or {})

    def to_xml(self, request_id: str = "") -> bytes:
        """The body.  B2 sends code and message only; the request's ID is there too, as programs for S3 expect it."""
        fields = self.fields | ({"RequestId": request_id} if request_id else {})
        extra = "".join(f"    <{name}>{escape(value)}</{name}>\n" for name, value in fields.items())
        return (
            '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<Error>\n'
            f"    <Code>{self.code}</Code>\n    <Message>{escape(str(self))}</Message>\n{extra}</Error>\n"
        ).encode("utf-8", "replace")


def unsupported_header(name: str) -> S3Error:
    """A header of a feature that B2 does not have."""
    return S3Error("InvalidArgument", f"Unsupported header '{name}' received for this API call.")


def not_entitled() -> S3Error:
    """The key's capabilities, buckets or prefix do not allow the call."""
    return S3Error("AccessDenied", "not entitled")
