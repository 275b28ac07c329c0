"""The dataset on disk: its format, its versions, and both sides of it (writing and reading)."""
