"""Benchmarks: read, asked, scored and shown."""
