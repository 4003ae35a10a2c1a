"""The S3 wire format, driven by botocore's service model: no store, no sockets."""
