"""Making results visible and understandable."""
