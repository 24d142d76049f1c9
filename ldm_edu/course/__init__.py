"""What only the notebooks and their authors need: live editing, claims, figures, widgets, exercises, and the tools around them."""
