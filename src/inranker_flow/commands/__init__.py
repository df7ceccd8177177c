"""Commands that need neither KFP nor Kubernetes, and what all commands share."""
