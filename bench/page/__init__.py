"""One self-contained page of all that was measured, in which every number opens what it comes from; and the same in a terminal."""
