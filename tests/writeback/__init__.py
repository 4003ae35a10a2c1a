"""Write-back held against its rules, on a bucket in memory and a clock that jumps."""
