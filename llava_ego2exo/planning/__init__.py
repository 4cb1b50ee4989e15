"""What a training run will take of a card, found without its weights."""
