"""Who asks, and may they: Signature V4, aws-chunked bodies, accounts and application keys."""
