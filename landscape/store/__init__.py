"""What is kept: results, journals of unfinished work, the protocol they were measured under, files of others."""
