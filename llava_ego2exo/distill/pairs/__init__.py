"""Paired videos: from folders of clips to a checked and cut pairs file."""
