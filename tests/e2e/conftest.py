"""Fixtures of the end-to-end tests."""

from tests.servers import rclone_s3, seaweedfs

__all__ = ["rclone_s3", "seaweedfs"]
