"""Everything that touches LLaVA; no other package imports it."""
