"""The study components: what each head and each MLP answers by itself, and weighted sums of them."""
