"""HTTP front of the embedded store: S3 wire protocol, Signature V4 and native API, as Backblaze B2 speaks them."""
