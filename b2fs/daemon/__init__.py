"""Builds the parts, runs them and ends them."""
