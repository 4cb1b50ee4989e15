"""A checkpoint folder before it is loaded: config, files, class, tokenizer, and safe reading of its weights."""
