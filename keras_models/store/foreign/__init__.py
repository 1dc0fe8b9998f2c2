"""Files that somebody else made: nothing is believed before it is checked."""
