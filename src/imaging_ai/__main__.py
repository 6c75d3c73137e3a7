"""`python -m imaging_ai` is `imaging-ai`."""

from imaging_ai.cli import main

main()
