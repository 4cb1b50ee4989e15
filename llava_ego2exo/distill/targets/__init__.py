"""Training files: from pairs and teacher answers to LLaVA's JSON list."""
