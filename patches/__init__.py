"""The one-line patch of llava that loads installed plugins; `README.md` beside this file tells about it."""
