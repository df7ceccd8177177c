"""Services around a run: KFP, Kubernetes, HTTP."""
