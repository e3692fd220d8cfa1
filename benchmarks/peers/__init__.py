"""Other ways to the same answer, to compare the methods of the package with."""
