"""A training step: samples, teacher targets, losses, monitoring, and verification of what was saved."""
