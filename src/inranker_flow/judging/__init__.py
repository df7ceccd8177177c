"""A judge: a language model that grades passages for queries that nobody has judged, and how far it can be trusted."""
