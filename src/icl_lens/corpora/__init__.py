"""Sources of text: the built-in generator, the original files of the data sets, user files, and the Hub."""
