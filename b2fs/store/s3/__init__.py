"""S3-compatible servers: awscrt for the data path, botocore for credentials and configuration."""
