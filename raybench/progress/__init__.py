"""How far a sweep is, told from its storage alone: for the driver's panel, and for `raybench watch` anywhere."""
