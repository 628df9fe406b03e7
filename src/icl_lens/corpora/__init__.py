"""Where text comes from: the built-in generator, the data sets' original files, a user's own files, or the hub."""
