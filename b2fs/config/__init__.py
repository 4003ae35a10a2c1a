"""Text in, frozen settings out: URLs, sizes, durations, command-line, fstab and environment options."""
