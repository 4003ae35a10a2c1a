"""Local state: block cache, view of the bucket, dirty content, ledger and write-back."""
