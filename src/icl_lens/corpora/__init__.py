"""Where text comes from: the built-in generator, or a folder of the data sets' original files."""
