"""A trained classifier in the file formats of other tools, each checked to give the same numbers."""
