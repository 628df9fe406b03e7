"""Study ``ch_edge_cuts``: predictions without some attention edges."""
