"""Where the plugin enters LLaVA: the table of hooks and fixes, and what installs and removes them."""
