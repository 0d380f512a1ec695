"""What the user asks for: schema, loading, overrides."""
