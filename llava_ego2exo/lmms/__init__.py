"""lmms-eval: the benchmarks as its tasks, and LLaVA with this package as one of its models."""
