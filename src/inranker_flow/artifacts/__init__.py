"""What stages hand on: folders of tables with a manifest."""
