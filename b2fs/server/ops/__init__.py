"""What each call does: one module per area, all registered in `calls.HANDLERS`."""
