"""An OpenAI-compatible server for students: `llava-ego2exo serve`."""
