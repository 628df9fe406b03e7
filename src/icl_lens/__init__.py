"""icl-lens: reproduce, audit and challenge studies of in-context learning."""
