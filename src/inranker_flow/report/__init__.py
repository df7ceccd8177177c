"""The page that shows the evidence."""
