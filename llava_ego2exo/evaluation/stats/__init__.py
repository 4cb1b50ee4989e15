"""From scored items to metrics with intervals and paired differences."""
