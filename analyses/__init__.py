"""Studies: each answers one question by comparing networks, measured by the instruments of `landscape`."""
