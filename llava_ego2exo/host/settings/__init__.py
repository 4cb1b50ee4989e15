"""One run's settings: our flags beside LLaVA's, what the user gave, and what the base checkpoint sets."""
