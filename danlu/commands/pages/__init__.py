"""The look that reports share: one style sheet, and the parts of a self-contained page."""
