"""Videos are decoded in processes of their own, which may hang or crash without harm."""
