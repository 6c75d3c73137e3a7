"""The `work` role: a light process that watches, and processes of its own that run the models."""
