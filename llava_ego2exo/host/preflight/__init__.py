"""Everything that is checked before the first weight loads."""
