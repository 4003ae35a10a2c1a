"""Pure values and decisions: no I/O, no trio, no os."""
