"""Subcommands: their flags, and a call of what does the work, imported when it runs."""
