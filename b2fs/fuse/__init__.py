"""The pyfuse3 shell."""
