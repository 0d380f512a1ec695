"""Code of users that says what an answer is worth; it runs in a sandbox only."""
