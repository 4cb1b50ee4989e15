"""One file a subcommand: its flags, and a call of what does the work, imported when it runs."""
