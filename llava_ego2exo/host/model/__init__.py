"""The student: projector with ego tokens, the tower's hidden states, and the splice into the input."""
