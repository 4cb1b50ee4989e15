"""Fixes of upstream faults, each wrapped around LLaVA's own function and switched off by name."""
