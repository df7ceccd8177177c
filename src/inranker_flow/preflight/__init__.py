"""What would end a run hours from now, asked in its first seconds."""
