"""From a checkpoint folder to a verified model, and to a merged one."""
