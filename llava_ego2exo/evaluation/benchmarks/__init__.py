"""Benchmark files: from each published layout to questions with video paths."""
