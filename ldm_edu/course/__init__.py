"""What only the notebooks and their authors need: live editing, claims, figures, widgets, exercises and their tools."""
