"""The simulator against real servers: their requests replayed, the errors, what they hang on."""
