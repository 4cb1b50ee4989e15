"""Layouts of benchmark files: one small reader each."""
