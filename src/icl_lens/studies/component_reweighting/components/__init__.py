"""Study ``components``: answers of individual heads and MLPs, and of weighted sums of them."""
