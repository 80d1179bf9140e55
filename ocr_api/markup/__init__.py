"""What stands in the text of a model, whichever model wrote it: loops, tables, links, words."""
