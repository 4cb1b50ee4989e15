"""Questions about a live camera, asked again and again: `llava-ego2exo watch`."""
