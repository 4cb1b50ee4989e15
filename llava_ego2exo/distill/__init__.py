"""From paired videos to a training file: pairs, teacher answers, targets."""
