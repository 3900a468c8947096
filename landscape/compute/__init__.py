"""Where and how numbers are computed: processes, threads, random streams, dropout masks, progress."""
