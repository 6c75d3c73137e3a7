"""People and programs: who they are, how they prove it, and for how long that is believed."""
