"""A world small enough for a laptop: rendered videos, tiny models, and the main job run on them."""
