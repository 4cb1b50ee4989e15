"""Free-form replies: from text to the option it names, or none."""
