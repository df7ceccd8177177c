"""Settings: the rules of their values, the sections of a profile, and how data becomes sections."""
