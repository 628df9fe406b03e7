"""Study of *When Parts Are Greater Than Sums* (Chang, Thomason and Jia, EMNLP 2024)."""
