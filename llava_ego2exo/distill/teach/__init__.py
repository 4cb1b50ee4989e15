"""Teacher answers: from a pairs file to stored answers about its ego clips."""
