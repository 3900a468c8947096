"""Forward passes whose feature maps are looked at: which points, and what repeated passes share."""
