"""Segments of the matched people, by columns of both sides: what each party does beside the joint protocol."""
