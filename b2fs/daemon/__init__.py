"""One mount as a process: building the parts, running them, saying how it goes, ending without losing data."""
