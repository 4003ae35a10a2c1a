"""The b2fs command."""
