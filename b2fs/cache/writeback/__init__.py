"""Write-back: makes the bucket hold what the ledger says, key by key."""
