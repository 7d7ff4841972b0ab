"""A project that runs at once, as `metisfl-async new` writes it: each file here, without its last suffix."""
