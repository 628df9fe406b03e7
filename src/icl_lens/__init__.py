"""icl-lens: rebuild, audit and doubt studies of in-context learning."""
