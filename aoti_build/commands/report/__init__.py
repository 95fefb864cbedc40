"""`report`: a page or Markdown about every target."""
